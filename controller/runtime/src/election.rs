//! Leader election over a Lease.
