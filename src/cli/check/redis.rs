//! Whether Redis can be used: connects as the service does, with the same patience, and asks for an answer.

use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, ProtocolVersion, RedisError, RedisResult, cmd};
use secrecy::ExposeSecret as _;

use super::Report;
use crate::config::RedisConfig;

/// As long as the service waits for a connection.
const TIME_TO_CONNECT: Duration = Duration::from_secs(1);
/// As long as the service waits for an answer.
const TIME_TO_ANSWER: Duration = Duration::from_millis(100);

pub(super) async fn try_to_use(redis: Option<&RedisConfig>, report: &mut Report) {
    let Some(redis) = redis else {
        return report.understood("Redis", "none: denials, and which tokens are out, live in the process");
    };
    let address = &redis.address;
    match ask(redis).await {
        Ok(policy) => {
            report.tried("Redis", Ok(format!("answers at {address}")));
            if let Some(policy) = policy.filter(|policy| policy != "noeviction") {
                report.warn(format_args!(
                    "Redis drops keys when its memory is full: denials or live grants can get lost; set its \
                     maxmemory-policy to noeviction, from {policy}"
                ));
            }
        }
        Err(error) => {
            let reason = in_words(&error);
            report.tried("Redis", Err(format!("{address}: {reason}; until it can be used there are no tokens")));
        }
    }
}

/// What Redis does when it has no memory left; none if this user may not know.
async fn ask(redis: &RedisConfig) -> RedisResult<Option<String>> {
    let info = redis.url.expose_secret().into_connection_info()?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(info.set_redis_settings(settings))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIME_TO_CONNECT))
        .set_response_timeout(Some(TIME_TO_ANSWER));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    cmd("PING").query_async::<()>(&mut connection).await?;
    let info = cmd("INFO").arg("memory").query_async::<String>(&mut connection).await.unwrap_or_default();
    Ok(info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(|policy| policy.trim().to_owned()))
}

/// Nothing that Redis said beyond the code of an error: a server that does not know a command repeats its arguments, and
/// those of the first one are user and password.
fn in_words(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("it answered {code}"),
        None if error.is_timeout() => "it did not answer in time".to_owned(),
        None if error.is_io_error() => error.to_string(),
        None => error.category().to_owned(),
    }
}
