//! The Serin API types and their CustomResourceDefinitions.
