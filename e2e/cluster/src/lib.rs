//! A real local Kubernetes cluster without a container engine.
