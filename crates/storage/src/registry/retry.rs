//! What is done when a registry fails for a moment.

use std::time::Duration;

use crate::{Error, Result};

/// Longest pause between two attempts, also if the registry asks for a longer one.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// How often and how soon something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1. A download that gets on counts anew.
    pub attempts: u32,
    /// Pause after the first failure; it doubles each time.
    pub first_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_delay: Duration::from_millis(500),
        }
    }
}

/// An attempt that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may succeed if tried again.
    Passing {
        error: Error,
        /// What the registry asks for in `Retry-After`.
        after: Option<Duration>,
    },
    /// It will fail again.
    Lasting(Error),
}

impl Failure {
    pub(super) fn passing(error: Error) -> Self {
        Self::Passing { error, after: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

/// Counts the attempts at one thing.
#[derive(Debug)]
pub(super) struct Attempts {
    policy: RetryPolicy,
    failed: u32,
}

impl Attempts {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self { policy, failed: 0 }
    }

    /// There was progress: the count starts anew.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// Waits until it is time to try again, or gives up with the error.
    pub(super) async fn failed(&mut self, failure: Failure) -> Result<()> {
        self.failed += 1;
        match failure {
            Failure::Lasting(error) => Err(error),
            Failure::Passing { error, .. } if self.failed >= self.policy.attempts => Err(error),
            Failure::Passing { after, .. } => {
                tokio::time::sleep(self.delay(after)).await;
                Ok(())
            }
        }
    }

    fn delay(&self, after: Option<Duration>) -> Duration {
        let doubled = self
            .policy
            .first_delay
            .saturating_mul(1 << (self.failed - 1).min(16));
        // Downloads that were cut at once must not come back at once.
        let spread = doubled.mul_f64(0.75 + 0.5 * fastrand::f64());
        spread.max(after.unwrap_or_default()).min(MAX_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut attempts = Attempts::new(RetryPolicy::default());
        attempts.failed = 1;
        let first = attempts.delay(None);
        assert!(first >= Duration::from_millis(375) && first <= Duration::from_millis(625));
        attempts.failed = 4;
        assert!(attempts.delay(None) >= Duration::from_secs(3));
        assert!(attempts.delay(Some(Duration::from_secs(20))) >= Duration::from_secs(20));
        attempts.failed = u32::MAX;
        assert_eq!(attempts.delay(Some(Duration::from_secs(86_400))), MAX_DELAY);
    }

    #[tokio::test]
    async fn gives_up_after_the_last_attempt() {
        let policy = RetryPolicy {
            attempts: 3,
            first_delay: Duration::ZERO,
        };
        let passing = || Failure::passing(Error::NoImage("x".to_owned()));
        let mut attempts = Attempts::new(policy);
        assert!(attempts.failed(passing()).await.is_ok());
        assert!(attempts.failed(passing()).await.is_ok());
        assert!(attempts.failed(passing()).await.is_err());
        attempts.reset();
        assert!(attempts.failed(passing()).await.is_ok());
        let lasting = Failure::Lasting(Error::NoImage("x".to_owned()));
        assert!(attempts.failed(lasting).await.is_err());
    }
}
