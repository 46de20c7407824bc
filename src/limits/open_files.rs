//! The limit on open files, which include sockets, and the connections that it allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files other than the public listener's connections: listeners, calls to Clerk, Ably and Redis, the admin listener's
/// connections.
const OTHER_FILES: u64 = 512;

/// The maximum number of new connections that wait for an eviction: enough for a burst.
const MAX_QUEUE: u64 = 2048;

/// How many connections a listener can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Open connections.
    pub connections: u64,
    /// New connections that wait for an eviction.
    pub queue: u64,
}

/// Raises the limit on open files to its maximum. Returns the room for at most `connections` connections.
#[must_use]
pub fn make_room(connections: u64) -> Room {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = current == maximum || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let files = if raised { maximum } else { current };
    room(files.unwrap_or(u64::MAX), connections)
}

/// With a low limit, a third is for other files, and a quarter of the rest for connections that wait.
fn room(files: u64, connections: u64) -> Room {
    let files = files - OTHER_FILES.min(files / 3);
    let queue = MAX_QUEUE.min(files / 4);
    Room { connections: connections.min(files - queue).max(1), queue: queue.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_other_uses() {
        for (files, wanted, connections, queue) in [
            (u64::MAX, 10_000, 10_000, 2048),
            (12_560, 10_000, 10_000, 2048),
            (12_559, 10_000, 9_999, 2048),
            (1024, 10_000, 513, 170),
            (300, 10_000, 150, 50),
            (300, 100, 100, 50),
            (0, 100, 1, 1),
        ] {
            assert_eq!(room(files, wanted), Room { connections, queue }, "{files} files, {wanted} connections");
        }
    }
}
