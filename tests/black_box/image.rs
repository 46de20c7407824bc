//! The Dockerfile, as far as it can be tried without Docker.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Its first layer has empty sources: one for each target that the manifests name, or Cargo builds nothing.
#[test]
fn the_first_layer_of_the_image_has_a_source_for_every_target() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dockerfile = fs::read_to_string(project.join("Dockerfile")).unwrap();
    let make_sources = dockerfile.split("\nRUN ").find(|step| step.contains("touch src/lib.rs")).unwrap();
    let (make_sources, _) = make_sources.split_once("&& cargo build").unwrap();
    let build = tempfile::tempdir().unwrap();
    for copied in ["Cargo.toml", "Cargo.lock", "benches/instructions/Cargo.toml", "sandbox/Cargo.toml"] {
        fs::create_dir_all(build.path().join(copied).parent().unwrap()).unwrap();
        fs::copy(project.join(copied), build.path().join(copied)).unwrap();
    }
    let script = format!("{make_sources} && cargo fetch --offline --locked");
    let output = Command::new("sh").args(["-e", "-c", &script]).current_dir(build.path()).output().unwrap();
    assert!(build.path().join("src/main.rs").exists());
    // Offline it may lack packages of other platforms, which is found after the manifests are read.
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("failed to parse manifest"), "{errors}");
}

/// Docker sees only what `.dockerignore` lets through.
#[test]
fn every_file_that_the_image_copies_is_in_the_build_context() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dockerfile = fs::read_to_string(project.join("Dockerfile")).unwrap();
    let ignored = fs::read_to_string(project.join(".dockerignore")).unwrap();
    let copies =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|copy| !copy.starts_with("--"));
    for copy in copies {
        let (sources, _) = copy.rsplit_once(' ').unwrap();
        for source in sources.split(' ') {
            assert!(project.join(source).exists(), "{source}");
            assert!(ignored.lines().any(|line| line.strip_prefix('!') == Some(source)), "{source}");
        }
    }
}

#[test]
fn the_image_looks_for_its_file_in_a_directory_that_can_be_mounted() {
    let dockerfile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).unwrap();
    let (_, image) = dockerfile.split_once("\nFROM scratch\n").unwrap();
    assert!(image.contains("\nWORKDIR /etc/ably-clerk-auth\n"), "{image}");
}

#[test]
fn the_image_has_the_licence_of_every_crate_in_the_service() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dockerfile = fs::read_to_string(project.join("Dockerfile")).unwrap();
    let step = dockerfile.split("\nRUN ").find(|step| step.contains("deploy/third-party-licenses >")).unwrap();
    let image = tempfile::tempdir().unwrap();
    let script = step.replace("/rootfs", image.path().to_str().unwrap());
    run(Command::new("sh").args(["-e", "-c", &script]));
    let docs = image.path().join("usr/share/doc/ably-clerk-auth");
    assert_eq!(fs::read(docs.join("LICENSE")).unwrap(), fs::read(project.join("LICENSE")).unwrap());
    assert!(docs.join("COPYRIGHT-library.html").exists());
    let licences = fs::read_to_string(docs.join("THIRD-PARTY-LICENSES.txt")).unwrap();

    let tree = ["tree", "--locked", "--package=ably-clerk-auth", "--edges=normal", "--prefix=none", "--format={p}|{l}"];
    let tree = run(Command::new("cargo").args(tree));
    let crates: BTreeSet<_> = tree.lines().map(|line| line.trim_end_matches(" (*)")).skip(1).collect();
    assert!(crates.len() > 100, "{crates:?}");
    for line in crates {
        let (package, expression) = line.split_once('|').unwrap();
        let mut words = package.split(' ');
        let name = words.next().unwrap();
        let version = words.next().unwrap().trim_start_matches('v');
        assert!(licences.contains(&format!("\n{name} {version}: {expression}\n")), "{line} is not in the list");
        let (_, texts) = licences.split_once(&format!("\n{name} {version}\n\n")).expect(line);
        let (texts, _) = texts.split_once("\n=====").unwrap_or((texts, ""));
        assert!(texts.contains("LICEN") || texts.starts_with("This crate ships no licence text."), "{line}: {texts}");
    }
}

/// Runs a command in the project, offline, and returns what it prints.
fn run(command: &mut Command) -> String {
    let project = env!("CARGO_MANIFEST_DIR");
    let output = command.current_dir(project).env("CARGO_NET_OFFLINE", "true").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
