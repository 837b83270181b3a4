//! Prints what a Rollout and a release cost. The arguments are the number of Rollouts and, optionally,
//! the number of RolloutPolicies that apply to each of them.

use anyhow::{Context as _, Result};
use serin_footprint::{CountingAllocator, Releases, measure};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rollouts = arguments
        .next()
        .context("usage: footprint ROLLOUTS [POLICIES]")?;
    let rollouts = rollouts
        .parse()
        .with_context(|| format!("ROLLOUTS: {rollouts} is not a number"))?;
    let policies = arguments.next().unwrap_or_else(|| "0".to_owned());
    let policies = policies
        .parse()
        .with_context(|| format!("POLICIES: {policies} is not a number"))?;
    let releases = Releases::for_benchmark(rollouts).under_policies(policies);
    print!("{}", measure(releases)?);
    Ok(())
}
