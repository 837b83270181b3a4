//! What a router object must look like for a given traffic split.
