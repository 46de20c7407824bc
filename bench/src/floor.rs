//! What one RS256 verification costs with a key that is kept parsed, while another core is busy with the same.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rustix::time::{ClockId, clock_gettime};

use crate::{load::to_f64, machine::Cores, tokens::Pool};

/// Tokens, split into what is signed and the signature, with the key.
pub(crate) struct Verification {
    key: ParsedPublicKey,
    tokens: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Verification {
    /// More tokens than fit into the L1 cache.
    const TOKENS: usize = 1000;

    pub(crate) fn of(pool: &Pool, public_key: &[u8]) -> Result<Self> {
        let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key)?;
        let parts = |token: &str| {
            let (signed, signature) = token.rsplit_once('.')?;
            Some((signed.as_bytes().to_vec(), BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?))
        };
        let tokens = (0..pool.len().min(Self::TOKENS)).map(|position| parts(pool.get(position)));
        Ok(Self { key, tokens: tokens.collect::<Option<_>>().context("a token has no signature")? })
    }

    /// The CPU time of one verification on the server's core, in microseconds.
    pub(crate) fn measure(&self, duration: Duration, cores: &Cores) -> Result<f64> {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = self.verify_all();
                }
            });
            let measured = scope.spawn(|| {
                cores.use_servers()?;
                self.measure_here(duration)
            });
            let outcome = measured.join().map_err(|_| anyhow!("the verification panicked"));
            is_over.store(true, Ordering::Relaxed);
            outcome?
        })
    }

    fn measure_here(&self, duration: Duration) -> Result<f64> {
        self.verify_all()?;
        let start = Instant::now();
        let before = thread_time();
        let mut verified = 0_usize;
        while start.elapsed() < duration {
            self.verify_all()?;
            verified += self.tokens.len();
        }
        let spent = thread_time().saturating_sub(before);
        Ok(spent.as_secs_f64() * 1e6 / to_f64(u64::try_from(verified)?))
    }

    fn verify_all(&self) -> Result<()> {
        for (signed, signature) in &self.tokens {
            self.key.verify_sig(signed, signature).map_err(|_| anyhow!("invalid signature"))?;
        }
        Ok(())
    }
}

/// The CPU time of the current thread.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
