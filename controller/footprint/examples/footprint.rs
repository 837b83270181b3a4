//! Prints what a Rollout and a release cost. The argument is the number of Rollouts.

use anyhow::{Context as _, Result};
use serin_footprint::{CountingAllocator, measure};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    let rollouts = argument.context("usage: footprint ROLLOUTS")?;
    let rollouts = rollouts
        .parse()
        .with_context(|| format!("ROLLOUTS: {rollouts} is not a number"))?;
    print!("{}", measure(rollouts)?);
    Ok(())
}
