//! How many files, sockets among them, the process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ConnectionTable;

/// Files besides open connections: those that wait for a place, and listeners, calls to Clerk, Ably and Redis, and the
/// admin listener's connections.
const OTHER_FILES: u64 = ConnectionTable::LONGEST_QUEUE as u64 + 512;

/// Raises the limit on open files as far as the process may, and returns for how many connections it is enough, up to
/// `connections`. At least one.
#[must_use]
pub fn make_room(connections: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = current == maximum || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let files = if raised { maximum } else { current };
    files.map_or(connections, |files| room(files, connections))
}

/// Where there are few files, a third of them is for connections.
fn room(files: u64, connections: u64) -> u64 {
    connections.min(files.saturating_sub(OTHER_FILES).max(files / 3)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_others() {
        for (files, connections, room_for) in [
            (1_048_576, 10_000, 10_000),
            (12_560, 10_000, 10_000),
            (12_559, 10_000, 9_999),
            (1024, 10_000, 341),
            (256, 10_000, 85),
            (256, 80, 80),
            (0, 100, 1),
        ] {
            assert_eq!(room(files, connections), room_for, "{files} files, {connections} connections");
        }
    }
}
