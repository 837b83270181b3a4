//! An in-memory Kubernetes API server and world for tests.
