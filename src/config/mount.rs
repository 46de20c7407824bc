//! Detects a configuration file that is mounted as a single file, as a container's volume can be. Such a mount shows the
//! file of the container's start for ever: a new file that replaces it by rename never appears.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path};

/// A warning if the file at this path is a mount point.
#[must_use]
pub fn mount_warning(file: &Path) -> Option<String> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = directory.canonicalize().ok()?.join(file.file_name()?);
    is_mount_point(&path, &fs::read("/proc/self/mountinfo").ok()?).then(|| {
        format!(
            "{} is mounted as a single file, so a new file that replaces it by rename, as ConfigMaps and most editors do, \
             never takes effect; mount its directory instead",
            file.display()
        )
    })
}

/// Whether the kernel's list of mounts (`proc_pid_mountinfo(5)`) has this path. It writes blanks and backslashes in octal.
fn is_mount_point(path: &Path, mounts: &[u8]) -> bool {
    let written = path.as_os_str().as_bytes().iter().flat_map(|byte| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        _ => vec![*byte],
    });
    let written: Vec<_> = written.collect();
    let mount_point = |line: &[u8]| line.split(|b| *b == b' ').nth(4).is_some_and(|field| field == written);
    mounts.split(|b| *b == b'\n').any(mount_point)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        63 43 254:0 /srv/policy.toml /etc/app/policy.toml rw,relatime - ext4 /dev/vda rw\n\
        64 43 254:0 /srv /etc/my\\040app\\134 ro master:1 - ext4 /dev/vda rw\n";

    #[test]
    fn a_file_is_a_mount_point_if_the_kernel_lists_it_as_one() {
        for (path, expected) in [
            ("/etc/app/policy.toml", true),
            ("/etc/my app\\", true),
            ("/srv/policy.toml", false),
            ("/etc/app", false),
            ("/etc/app/policy", false),
            ("/etc/my\\040app\\134", false),
        ] {
            assert_eq!(is_mount_point(Path::new(path), MOUNTS), expected, "{path}");
        }
        assert!(!is_mount_point(Path::new("/etc/app/policy.toml"), b"\n63 43\nnonsense"));
    }

    #[test]
    fn a_file_that_is_not_mounted_or_missing_is_not_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(mount_warning(&directory.path().join("nowhere.toml")), None);
        assert_eq!(mount_warning(Path::new("Cargo.toml")), None);
        assert!(mount_warning(Path::new("/proc")).unwrap().starts_with("/proc is mounted as a single file"));
    }
}
