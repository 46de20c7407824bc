//! The Dockerfile, as far as it can be tried without Docker.

use std::{fs, path::Path, process::Command};

/// Its first layer has empty sources: one for each target that the manifests name, or Cargo builds nothing.
#[test]
fn the_first_layer_of_the_image_has_a_source_for_every_target() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dockerfile = fs::read_to_string(project.join("Dockerfile")).unwrap();
    let make_sources = dockerfile.split("\nRUN ").find(|step| step.contains("touch src/lib.rs")).unwrap();
    let (make_sources, _) = make_sources.split_once("&& cargo build").unwrap();
    let build = tempfile::tempdir().unwrap();
    fs::create_dir(build.path().join("sandbox")).unwrap();
    for copied in ["Cargo.toml", "Cargo.lock", "sandbox/Cargo.toml"] {
        fs::copy(project.join(copied), build.path().join(copied)).unwrap();
    }
    let script = format!("{make_sources} && cargo fetch --offline --locked");
    let output = Command::new("sh").args(["-e", "-c", &script]).current_dir(build.path()).output().unwrap();
    assert!(build.path().join("src/main.rs").exists());
    // Offline it may lack packages of other platforms, which is found after the manifests are read.
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("failed to parse manifest"), "{errors}");
}
