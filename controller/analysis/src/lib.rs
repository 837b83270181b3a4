//! The pure statistics of Serin: counters to evidence to verdict, error budgets.
