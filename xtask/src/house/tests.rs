//! Each rule once broken and once kept. What a rule forbids is assembled here, or this file would break it.

use super::{eicar, inspect};

const ENGINE: &str = "crates/fltport-engine/src/client.rs";

/// The rules that `text` breaks as the file `path`, with their lines.
fn broken(path: &str, text: &str) -> Vec<(&'static str, usize)> {
    inspect(path, text.as_bytes())
        .into_iter()
        .map(|finding| (finding.rule.name, finding.line))
        .collect()
}

#[test]
fn a_file_may_have_600_lines_and_no_more() {
    assert_eq!(broken("a/b.rs", &"\n".repeat(600)), []);
    assert_eq!(broken("a/b.py", &"\n".repeat(601)), [("long file", 601)]);
    assert_eq!(broken("Cargo.lock", &"\n".repeat(601)), []);
}

#[test]
fn unsafe_code_stands_in_edge_files_only() {
    let keyword = "unsafe";
    for item in [
        " { x() }",
        " fn f() {}",
        " impl Send for X {}",
        " extern \"C\" {}",
        "\n{ x() }",
    ] {
        let text = format!("\n{keyword}{item}\n");
        assert_eq!(
            broken("crates/fltctl/src/main.rs", &text),
            [("unsafe outside the OS edge", 2)]
        );
        for edge in [
            "peer.rs",
            "fanotify.rs",
            "fanotify_mark.rs",
            "ring.rs",
            "supervisor.rs",
        ] {
            assert_eq!(
                broken(&format!("crates/fltport/src/sys/linux/{edge}"), &text),
                []
            );
        }
    }
}

#[test]
fn the_word_unsafe_is_free_in_prose_and_in_lint_names() {
    let text = format!(
        "#![forbid(unsafe_code)]\n// no {0} fn here\nconst WORD: &str = \"{0} fn\";\n",
        "unsafe"
    );
    assert_eq!(broken("crates/fltctl/src/main.rs", &text), []);
    assert_eq!(broken("docs/design.md", "never an unsafe block"), []);
}

#[test]
fn no_test_is_ignored() {
    assert_eq!(
        broken("a/tests/b.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}"),
        [("ignored test", 2)]
    );
    assert_eq!(
        broken("a/b.rs", "#[cfg_attr(miri, ignore)]"),
        [("ignored test", 1)]
    );
    assert_eq!(
        broken(
            "a/b.rs",
            "#[must_use]\nfn ignore(ignored: bool) {} // #[ignore]"
        ),
        []
    );
}

#[test]
fn nothing_is_left_open() {
    let marker = concat!("TO", "DO");
    assert_eq!(
        broken("a.py", &format!("x = 1\n# {marker}: the rest\n")),
        [("left open", 2)]
    );
    assert_eq!(
        broken("a.rs", &format!("fn f() {{ {}!() }}", "todo")),
        [("left open", 1)]
    );
    assert_eq!(
        broken("a.rs", &format!("let x = {}!(\"later\");", "unimplemented")),
        [("left open", 1)]
    );
    assert_eq!(
        broken(
            "a.rs",
            "// a list of things to do\nlet todo = 1; assert!(todo != 2);"
        ),
        []
    );
}

#[test]
fn nothing_unwraps_where_a_peers_bytes_pass() {
    let rule = "panic on a peer's bytes";
    assert_eq!(
        broken(ENGINE, "fn f() {\n    x.unwrap();\n    y.expect(\"y\");\n}"),
        [(rule, 2), (rule, 3)]
    );
    assert_eq!(
        broken("crates/fltport/src/sys/linux/link.rs", "x.unwrap();"),
        [(rule, 1)]
    );
    assert_eq!(
        broken(ENGINE, "#[cfg(not(test))]\nfn f() { x.unwrap() }"),
        [(rule, 2)]
    );
    assert_eq!(
        broken(ENGINE, "x.unwrap_or(0); // .unwrap()\n#[expect(dead_code)]"),
        []
    );
    assert_eq!(broken("crates/fltport/src/client.rs", "x.unwrap();"), []);
}

#[test]
fn tests_may_unwrap_everywhere() {
    assert_eq!(
        broken(
            ENGINE,
            "#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap() }\n}"
        ),
        []
    );
    assert_eq!(
        broken("crates/fltport-engine/src/client/tests.rs", "x.unwrap();"),
        []
    );
    assert_eq!(
        broken(
            "crates/fltport-engine/src/tests/story.rs",
            "x.expect(\"y\");"
        ),
        []
    );
    let after = "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { x.unwrap() }";
    assert_eq!(broken(ENGINE, after), [("panic on a peer's bytes", 3)]);
}

#[test]
fn fltport_takes_its_atomics_from_sync() {
    let text = "use std::sync::atomic::AtomicU32;";
    assert_eq!(
        broken("crates/fltport/src/driver.rs", text),
        [("atomics past sync.rs", 1)]
    );
    assert_eq!(broken("crates/fltport/src/sync.rs", text), []);
    assert_eq!(broken("crates/fltport/tests/stories.rs", text), []);
    assert_eq!(broken("crates/flthost/src/host.rs", text), []);
}

#[test]
fn no_path_of_a_workplace_is_written_down() {
    for folder in ["work", "farm"] {
        let path = format!("/{folder}/clone");
        assert_eq!(
            broken("docs/a.md", &format!("see {path}")),
            [("somebody's machine", 1)]
        );
        assert_eq!(
            broken("a.sh", &format!("\n{path}")),
            [("somebody's machine", 2)]
        );
        assert_eq!(
            broken(
                "docs/a.md",
                &format!("https://example.org{path} and a.b{path}, target{path}")
            ),
            []
        );
    }
}

#[test]
fn the_antivirus_test_string_is_not_stored() {
    let rule = "stored EICAR string";
    assert_eq!(
        broken("tests/sample.bin", &format!("\n{}\n", eicar())),
        [(rule, 2)]
    );
    assert_eq!(broken("a.rs", &format!("{:?}", eicar())), [(rule, 1)]);
    assert_eq!(broken("a.rs", "the EICAR-STANDARD-ANTIVIRUS-TEST-FILE"), []);
    assert_eq!(eicar().len(), 68);
}

#[test]
fn a_finding_says_where_and_what_to_do() {
    let finding = inspect("a/b.rs", b"\n#[ignore]").remove(0);
    let expected = "a/b.rs:2: ignored test: let it decide at run time: print `skipped: <what is missing>` and return";
    assert_eq!(finding.to_string(), expected);
}

#[test]
fn bytes_that_are_no_text_break_nothing() {
    assert_eq!(inspect("a.bin", &[0xff, 0xfe, 0, b'\'', b'"']), []);
    assert_eq!(inspect("a.rs", &[b'\'', 0xff]), []);
}
