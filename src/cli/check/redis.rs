//! Tries Redis as the service does, with the same timeouts.

use super::Report;
use crate::config::RedisConfig;

pub(super) async fn try_redis(redis: Option<&RedisConfig>, report: &mut Report) {
    let Some(RedisConfig { address, prefix, .. }) = redis else {
        return report.setting("Redis", "none: this replica keeps denials and live tokens in memory");
    };
    match address.probe(prefix).await {
        Ok(policy) => {
            report.tried("Redis", Ok(format!("answers at {address}")));
            if let Some(policy) = policy {
                report.warn(format_args!(
                    "Redis drops keys when its memory is full, so denials or live tokens can get lost; set its \
                     maxmemory-policy to noeviction, from {policy}"
                ));
            }
        }
        Err(reason) => {
            let is_private = reason.contains("UnknownIssuer");
            let cure =
                if is_private { "; set REDIS_CA_FILE to the certificate of the CA that signed Redis's" } else { "" };
            report.tried(
                "Redis",
                Err(format!("{address}: {reason}{cure}; the service issues no tokens until Redis works")),
            );
        }
    }
}
