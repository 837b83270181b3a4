//! An open-loop load generator that records every answer.
