//! The built-in indicators on what their exporters expose.

#[cfg(test)]
mod exporters;

#[cfg(test)]
mod names;
