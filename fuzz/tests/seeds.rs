//! The files in `seeds/` are what `src/seeds.rs` makes. With `FLTPORT_FUZZ_WRITE` set, they become it.

use std::path::Path;

use fltport_fuzz::seeds::{self, Seed};

fn check(target: &str, seeds: &[Seed]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    let write = std::env::var_os("FLTPORT_FUZZ_WRITE").is_some();
    for (name, bytes) in seeds {
        let path = folder.join(name);
        if write {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == *bytes,
            "{} is not what src/seeds.rs makes; write it with FLTPORT_FUZZ_WRITE=1",
            path.display()
        );
    }
}

#[test]
fn seeds_of_wire_are_as_they_are_made() {
    check("wire", &seeds::wire::seeds());
}

#[test]
fn seeds_of_engine_are_as_they_are_made() {
    check("engine", &seeds::engine::seeds());
}

#[test]
#[cfg(target_os = "linux")]
fn seeds_of_transport_are_as_they_are_made() {
    check("transport", &seeds::transport::seeds());
}
