//! The rate limit of `revokeTokens`.

/// A fixed window that starts with the first call in it.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    calls: u32,
    window_ms: i64,
    window: Option<Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    until_ms: i64,
    calls: u32,
}

impl RateLimiter {
    pub(crate) fn new(calls: u32, window_ms: i64) -> Self {
        Self { calls, window_ms, window: None }
    }

    /// Counts a call; at the limit, `Err` holds the seconds until the window ends.
    pub(crate) fn admit(&mut self, now_ms: i64) -> Result<(), u32> {
        let fresh = Window { until_ms: now_ms.saturating_add(self.window_ms), calls: 0 };
        let window = self.window.filter(|window| now_ms < window.until_ms).unwrap_or(fresh);
        if window.calls >= self.calls {
            let seconds = (window.until_ms - now_ms + 999).div_euclid(1000);
            return Err(u32::try_from(seconds).unwrap_or(u32::MAX));
        }
        self.window = Some(Window { calls: window.calls + 1, ..window });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::RateLimiter;

    const NOW_MS: i64 = 1_795_289_000_000;

    #[test]
    fn calls_above_the_rate_limit_get_the_end_of_the_window() {
        let mut limiter = RateLimiter::new(2, 1500);
        let admitted = [(0, Ok(())), (100, Ok(())), (400, Err(2)), (1499, Err(1)), (1500, Ok(())), (2999, Ok(()))];
        for (after_ms, outcome) in admitted {
            assert_eq!(limiter.admit(NOW_MS + after_ms), outcome, "{after_ms}");
        }
    }
}
