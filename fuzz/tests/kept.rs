//! Every kept input through its target, on any compiler: seeds, and what once made a target fail.

use std::path::{Path, PathBuf};

fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(target);
    let Ok(files) = std::fs::read_dir(&folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
}

fn run_all(target: &str) {
    let (_, run) = fltport_fuzz::TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .expect("a target of this name");
    if let Some(one) = std::env::var_os("FLTPORT_FUZZ_INPUT") {
        return run(&std::fs::read(one).unwrap());
    }
    let seeds = inputs("seeds", target);
    assert!(seeds.len() >= 10, "{} seeds of {target}", seeds.len());
    for path in seeds.iter().chain(&inputs("regressions", target)) {
        // Shown by the test runner only if something below fails.
        println!("{}", path.display());
        run(&std::fs::read(path).unwrap());
    }
}

#[test]
fn kept_inputs_of_wire() {
    run_all("wire");
}

#[test]
fn kept_inputs_of_engine() {
    run_all("engine");
}

#[test]
#[cfg(target_os = "linux")]
fn kept_inputs_of_transport() {
    run_all("transport");
}
