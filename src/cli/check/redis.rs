//! Whether Redis can be used: asked as the service asks it, with the same patience.

use super::Report;
use crate::config::RedisConfig;

pub(super) async fn try_to_use(redis: Option<&RedisConfig>, report: &mut Report) {
    let Some(RedisConfig { address, prefix, .. }) = redis else {
        return report.understood("Redis", "none: denials, and which tokens are out, live in the process");
    };
    match address.probe(prefix).await {
        Ok(policy) => {
            report.tried("Redis", Ok(format!("answers at {address}")));
            if let Some(policy) = policy {
                report.warn(format_args!(
                    "Redis drops keys when its memory is full: denials or live tokens can get lost; set its \
                     maxmemory-policy to noeviction, from {policy}"
                ));
            }
        }
        Err(reason) => {
            let is_private = reason.contains("UnknownIssuer");
            let cure =
                if is_private { "; set REDIS_CA_FILE to the certificate of the CA that signed Redis's" } else { "" };
            report.tried("Redis", Err(format!("{address}: {reason}{cure}; until it can be used there are no tokens")));
        }
    }
}
