//! Runs this program under callgrind and reads what it counted.
//!
//! Left out is the code of which there are several versions, chosen by the processor: the cryptographic primitives of
//! AWS-LC and RustCrypto, and the functions of the C library and of `memchr` that copy, compare and search bytes. A call
//! of such a function does not count, with everything that it calls.

use std::{
    collections::{BTreeMap, BTreeSet},
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
        .args(["--quiet", "--tool=callgrind", "--collect-atstart=no"])
        .args(["--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect=*{function}*"))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe()?)
        .args(arguments)
        // The settings come from the input alone.
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .stdin(Stdio::piped())
        .spawn()
        .map_err(CallgrindError::Start)?;
    if let Some(mut stdin) = valgrind.stdin.take() {
        stdin.write_all(input)?;
    }
    if !valgrind.wait()?.success() {
        return Err(CallgrindError::Failed);
    }
    match counted(&fs::read_to_string(profile)?, function)? {
        0 => Err(CallgrindError::Nothing(function)),
        count => Ok(count),
    }
}

/// The instructions of a function in a profile, without the calls that are left out.
fn counted(profile: &str, function: &str) -> Result<u64, CallgrindError> {
    let profile = Profile::parse(profile)?;
    let mut reached: BTreeSet<_> = profile.calls.keys().copied().filter(|name| name.contains(function)).collect();
    let mut unvisited: Vec<_> = reached.iter().copied().collect();
    let mut left_out = 0;
    while let Some(caller) = unvisited.pop() {
        for (callee, inclusive) in profile.calls.get(caller).into_iter().flatten() {
            if is_left_out(callee) {
                left_out += inclusive;
            } else if reached.insert(callee) {
                unvisited.push(callee);
            }
        }
    }
    Ok(profile.total.saturating_sub(left_out))
}

/// What callgrind collected.
#[derive(Default)]
struct Profile<'a> {
    total: u64,
    /// By the name of a function, its calls: the name of the other, and the cost including what that one calls.
    calls: BTreeMap<&'a str, Vec<(&'a str, u64)>>,
}

impl<'a> Profile<'a> {
    fn parse(text: &'a str) -> Result<Self, CallgrindError> {
        let mut profile = Self::default();
        let (mut caller, mut callee) = ("", "");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(name) = line.strip_prefix("fn=") {
                caller = name;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = name;
            } else if line.starts_with("calls=") {
                let inclusive = cost(lines.next().unwrap_or_default())?;
                profile.calls.entry(caller).or_default().push((callee, inclusive));
            } else if line.starts_with(|first: char| first.is_ascii_digit()) {
                profile.total += cost(line)?;
            }
        }
        Ok(profile)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `start` costs 100 by itself and calls `work` (20, of which 5 in `memcpy`) and `aws_lc_verify` (1000, of which 900 in
    /// a function without prefix).
    const PROFILE: &str = "\
version: 1
events: Ir
summary: 1120

fl=a.rs
fn=start
10 60
cfn=work
calls=1 0
11 20
12 40
cob=libcrypto
cfn=aws_lc_verify
calls=2 0
12 1000

fn=work
5 15
cfn=__memcpy_avx2
calls=1 0
6 5

fn=__memcpy_avx2
1 5

fn=aws_lc_verify
1 100
cfn=multiply
calls=9 0
1 900

fn=multiply
1 800
cfn=aws_lc_add
calls=9 0
1 100

fn=aws_lc_add
1 100
";

    #[test]
    fn what_depends_on_the_processor_is_left_out_with_all_that_it_calls() {
        assert_eq!(counted(PROFILE, "start").unwrap(), 115);
    }

    #[test]
    fn a_line_in_another_form_is_an_error() {
        let damaged = PROFILE.replace("5 15", "5 x");
        assert!(matches!(counted(&damaged, "start"), Err(CallgrindError::Malformed(line)) if line == "5 x"));
    }
}
