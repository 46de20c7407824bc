//! Why Redis cannot be used.

use ::redis::{ErrorKind, RedisError, ServerError, ServerErrorKind};

use super::node::Node;

/// Why a connection cannot be made, or cannot be used any more, for the log. Of an answer of Redis it has only the error code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectionLost(pub String);

impl ConnectionLost {
    /// Names the server.
    pub(super) fn at(&self, node: &Node) -> Self {
        Self(format!("{node}: {self}"))
    }
}

/// From an answer of Redis the reason has only the error code: a server that does not know a command repeats its
/// arguments, and those of the first one are user and password.
impl From<RedisError> for ConnectionLost {
    fn from(error: RedisError) -> Self {
        let unanswered = if error.is_timeout() {
            "it did not answer in time".to_owned()
        } else if error.is_io_error() {
            error.to_string()
        } else if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) {
            format!("it refused the database of the URL{}", why_no_database(error.detail().unwrap_or_default()))
        } else {
            error.category().to_owned()
        };
        // A pipeline has an answer for each command; its error as a whole has no code.
        let answers = error.into_server_errors().unwrap_or_default();
        let Some((_, answer)) = answers.first() else { return Self(unanswered) };
        let code = code_of(answer);
        let meaning = meaning_of(code, answer.details().unwrap_or_default());
        Self(format!("it answered {code}{}{meaning}", if meaning.is_empty() { "" } else { ": " }))
    }
}

/// The error code of an answer. Redis 6.2 puts the code of a script's error into the text.
fn code_of(answer: &ServerError) -> &str {
    let in_a_script = |code: &&str| answer.details().is_some_and(|text| text.contains(&format!(" -{code} ")));
    ["OOM", "READONLY", "NOREPLICAS", "MISCONF"].into_iter().find(in_a_script).unwrap_or(answer.code())
}

/// Why a new connection cannot use the database. The client keeps only the text of the answer.
fn why_no_database(details: &str) -> &'static str {
    if details.contains("cluster mode") {
        ": it is a cluster, which has no database but 0; remove the database from REDIS_URL"
    } else if details.contains("no permissions") {
        ": the user may not run SELECT; add +select"
    } else {
        ""
    }
}

/// What an answer means that depends on how Redis is set up.
fn meaning_of(code: &str, details: &str) -> &'static str {
    match code {
        "ERR" if details.contains("unknown command") => {
            "it does not know a command of Redis 6.2; if it is a sentinel, set REDIS_SENTINEL_MASTER"
        }
        "MOVED" => "another node of the cluster has the data now",
        "ASK" | "TRYAGAIN" => "the data is moving to another node of the cluster",
        "CLUSTERDOWN" => "the cluster is down, or this node is cut off from the others",
        "NOSCRIPT" => "it does not know the scripts that it was sent, as after a restart or a failover",
        "CROSSSLOT" => "it is a cluster that keeps keys with the same hash tag on different nodes",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_has_the_error_code_of_an_answer_and_nothing_else() {
        for (answer, reason) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", "it answered OOM"),
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: 2f, on @user_script:18.",
                "it answered OOM",
            ),
            // Redis 6.2.
            (
                "ERR Error running script (call to f_2f): @user_script:18: @user_script: 18: -OOM command not allowed \
                 when used memory > 'maxmemory'. ",
                "it answered OOM",
            ),
            ("READONLY You can't write against a read only replica.", "it answered READONLY"),
            ("ERR Error running script (call to f_2f): @user_script:1: hunter2", "it answered ERR"),
            (
                "ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `hunter2`",
                "it answered ERR: it does not know a command of Redis 6.2; if it is a sentinel, set \
                 REDIS_SENTINEL_MASTER",
            ),
            ("MOVED 1234 127.0.0.1:7001", "it answered MOVED: another node of the cluster has the data now"),
            (
                "NOSCRIPT No matching script.",
                "it answered NOSCRIPT: it does not know the scripts that it was sent, as after a restart or a failover",
            ),
            ("NOAUTH Authentication required.", "it answered NOAUTH"),
            ("LOADING Redis is loading the dataset in memory", "it answered LOADING"),
        ] {
            let parsed = ::redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap();
            assert_eq!(ConnectionLost::from(parsed.extract_error().unwrap_err()).0, reason, "{answer}");
        }
    }
}
