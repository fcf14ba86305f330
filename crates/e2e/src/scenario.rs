//! A test made of steps on one system that is costly to bring up.

use std::time::Instant;

use anyhow::{Result, bail};

/// Carries out steps in order and goes on after one that fails, so that one run tells everything
/// that is wrong.
#[derive(Debug, Default)]
pub struct Scenario {
    steps: usize,
    failures: Vec<String>,
}

impl Scenario {
    /// Returns whether the step succeeded: steps that build upon it can be left out.
    pub fn step(&mut self, name: &str, action: impl FnOnce() -> Result<()>) -> bool {
        let started = Instant::now();
        let outcome = action();
        let seconds = started.elapsed().as_secs_f32();
        self.steps += 1;
        match outcome {
            Ok(()) => {
                println!("ok      {name} ({seconds:.1} s)");
                true
            }
            Err(error) => {
                println!("FAILED  {name} ({seconds:.1} s): {error:#}");
                self.failures.push(format!("{name}: {error:#}"));
                false
            }
        }
    }

    /// # Errors
    /// The steps that failed, with their reasons.
    pub fn finish(self) -> Result<()> {
        if self.failures.is_empty() {
            return Ok(());
        }
        bail!(
            "{} of {} steps failed:\n  {}",
            self.failures.len(),
            self.steps,
            self.failures.join("\n  ")
        )
    }
}
