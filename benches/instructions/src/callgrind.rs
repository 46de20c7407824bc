//! Runs this program under callgrind and reads what it counted.
//!
//! Left out is the code of which there are several versions, chosen by the processor: the cryptographic primitives of
//! AWS-LC and RustCrypto, and the functions of the C library and of `memchr` that copy, compare and search bytes. A call
//! of such a function does not count, with everything that it calls.

use std::{
    env, fs,
    io::{self, Write as _},
    process::{Command, Stdio},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CallgrindError {
    #[error("valgrind cannot be started: {0}")]
    Start(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the program failed under valgrind")]
    Failed,
    #[error("callgrind counted nothing in {0}")]
    Nothing(&'static str),
    #[error("callgrind wrote a line that this program cannot read: {0}")]
    Malformed(String),
}

/// Runs this program with these arguments and this input. Counts the instructions of the function with this name.
pub(crate) fn count(arguments: &[&str], function: &'static str, input: &[u8]) -> Result<u64, CallgrindError> {
    let directory = tempfile::tempdir()?;
    let profile = directory.path().join("profile");
    let mut valgrind = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind", "--collect-atstart=no", "--dump-line=no"])
        .args(["--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect=*{function}*"))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe()?)
        .args(arguments)
        // The settings come from the input alone.
        .env_clear()
        .stdin(Stdio::piped())
        .spawn()
        .map_err(CallgrindError::Start)?;
    if let Some(mut stdin) = valgrind.stdin.take() {
        stdin.write_all(input)?;
    }
    if !valgrind.wait()?.success() {
        return Err(CallgrindError::Failed);
    }
    match counted(&fs::read_to_string(profile)?)? {
        0 => Err(CallgrindError::Nothing(function)),
        count => Ok(count),
    }
}

/// The instructions of a profile, without calls that are left out.
fn counted(profile: &str) -> Result<u64, CallgrindError> {
    let (mut caller, mut callee) = ("", "");
    let (mut total, mut left_out) = (0, 0);
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("fn=") {
            caller = name;
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if line.starts_with("calls=") {
            let inclusive = cost(lines.next().unwrap_or_default())?;
            if is_left_out(callee) && !is_left_out(caller) {
                left_out += inclusive;
            }
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            total += cost(line)?;
        }
    }
    Ok(total - left_out)
}

/// The cost in a line of a position and a cost.
fn cost(line: &str) -> Result<u64, CallgrindError> {
    let cost = line.split_once(' ').and_then(|(_, cost)| cost.parse().ok());
    cost.ok_or_else(|| CallgrindError::Malformed(line.to_owned()))
}

fn is_left_out(function: &str) -> bool {
    const PARTS: [&str; 4] = ["aws_lc_", "sha1::", "sha2::", "memchr::"];
    const STARTS: [&str; 4] = ["mem", "__mem", "bcmp", "__str"];
    PARTS.iter().any(|part| function.contains(part)) || STARTS.iter().any(|start| function.starts_with(start))
}
