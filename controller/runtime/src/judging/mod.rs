//! What the metrics say of each release that is under way.
