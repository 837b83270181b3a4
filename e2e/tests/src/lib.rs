//! What must be seen on a real cluster.
