//! Rule sources: where they may come from, and what is said about wrong ones.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use fltscan::{RuleSource, Rules, RulesError};
use tempfile::TempDir;

#[test]
fn the_built_in_rule_compiles_without_a_warning() {
    let rules = Rules::builtin().unwrap();
    assert_eq!(rules.count(), 1);
    assert_eq!(rules.warnings(), []);
}

#[test]
fn an_error_is_reported_with_its_file_line_and_column() {
    let error = compile(&[(
        "rules/bad.yar",
        "rule bad {\n  condition:\n    nowhere\n}\n",
    )])
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "rules/bad.yar:3:5: unknown identifier `nowhere`: this identifier has not been declared"
    );
}

#[test]
fn a_syntax_error_has_its_place_too() {
    let error =
        compile(&[("bad.yar", "rule bad {\n  condition:\n    true and )\n}\n")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("bad.yar:3:14: syntax error: "),
        "{error}"
    );
}

#[test]
fn columns_count_characters() {
    let error = compile(&[("bad.yar", "rule bad { condition: /* äöü */ nowhere }")]).unwrap_err();
    assert!(error.to_string().starts_with("bad.yar:1:33: "), "{error}");
}

#[test]
fn every_error_of_every_file_is_reported() {
    let bad = "rule one { condition: first }\nrule two { condition: second }\n";
    let error = compile(&[("a.yar", bad), ("good.yar", GOOD), ("b.yar", bad)]).unwrap_err();
    let RulesError::Invalid { problems } = &error else {
        panic!("{error:?}")
    };
    let places = problems
        .iter()
        .map(|problem| (problem.source_name.as_str(), problem.line))
        .collect::<Vec<_>>();
    assert_eq!(
        places,
        [("a.yar", 1), ("a.yar", 2), ("b.yar", 1), ("b.yar", 2)]
    );
    assert_eq!(error.to_string().lines().count(), 4);
}

#[test]
fn two_files_may_use_the_same_rule_name_but_one_file_may_not() {
    // The same name for both sources, too: a parent may not care.
    assert_eq!(
        compile(&[("a.yar", GOOD), ("a.yar", GOOD)])
            .unwrap()
            .count(),
        2
    );
    let twice = format!("{GOOD}\n{GOOD}");
    let error = compile(&[("twice.yar", &twice)]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("twice.yar:2:6: duplicate rule `good`"),
        "{error}"
    );
}

#[test]
fn a_rule_cannot_refer_to_a_rule_of_another_file() {
    let error =
        compile(&[("a.yar", GOOD), ("b.yar", "rule other { condition: good }")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("b.yar:1:25: unknown identifier `good`"),
        "{error}"
    );
}

#[test]
fn an_include_is_refused() {
    let error = compile(&[(
        "a.yar",
        "include \"/etc/passwd\"\nrule a { condition: true }",
    )])
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("a.yar:1:1: include statements not allowed"),
        "{error}"
    );
}

#[test]
fn a_module_that_is_not_built_in_is_an_error() {
    let error = compile(&[(
        "a.yar",
        "import \"dotnet\"\nrule a { condition: dotnet.is_dotnet }",
    )])
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("a.yar:1:1: unknown module `dotnet`"),
        "{error}"
    );
}

#[test]
fn text_that_is_not_utf8_is_reported_with_its_place() {
    let source = RuleSource {
        name: "latin1.yar".to_owned(),
        text: b"rule a {\n  // caf\xe9\n condition: true }".to_vec(),
    };
    let error = Rules::compile([source]).unwrap_err();
    assert_eq!(error.to_string(), "latin1.yar:2:9: not UTF-8 text");
}

#[test]
fn a_set_without_rules_is_refused() {
    assert!(matches!(compile(&[]), Err(RulesError::NoRules)));
    assert!(matches!(
        compile(&[("empty.yar", "// nothing\n")]),
        Err(RulesError::NoRules)
    ));
}

#[test]
fn an_odd_rule_gives_a_warning_with_its_place() {
    let rules = compile(&[("odd.yar", "rule odd {\n  condition:\n    true or false\n}")]).unwrap();
    let [warning] = rules.warnings() else {
        panic!("{:?}", rules.warnings())
    };
    assert_eq!(
        (warning.source_name.as_str(), warning.line, warning.column),
        ("odd.yar", 3, 5)
    );
}

#[test]
fn a_directory_is_read_in_order_and_not_entered() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("more")).unwrap();
    for name in ["b.yara", "a.yar", "notes.txt", ".hidden.yar", "more/c.yar"] {
        fs::write(dir.path().join(name), GOOD).unwrap();
    }
    let sources = RuleSource::collect(dir.path()).unwrap();
    let names = sources
        .iter()
        .map(|source| Path::new(&source.name).strip_prefix(dir.path()).unwrap())
        .collect::<Vec<_>>();
    assert_eq!(names, [Path::new("a.yar"), Path::new("b.yara")]);
    assert_eq!(Rules::compile(sources).unwrap().count(), 2);
}

#[test]
fn a_single_file_may_have_any_name() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rules.txt");
    fs::write(&path, GOOD).unwrap();
    let sources = RuleSource::collect(&path).unwrap();
    assert_eq!(sources, [source(&path.display().to_string(), GOOD)]);
}

#[test]
fn what_cannot_be_a_source_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().display();
    assert_eq!(
        collect_error(dir.path()),
        format!("{path}: no *.yar or *.yara file in this directory")
    );
    assert_eq!(
        collect_error(&dir.path().join("none.yar")),
        format!("{path}/none.yar: no such file or directory")
    );
    assert_eq!(
        collect_error(Path::new("/dev/null")),
        "/dev/null: not a regular file"
    );
    fs::create_dir(dir.path().join("folder.yar")).unwrap();
    assert_eq!(
        collect_error(dir.path()),
        format!("{path}/folder.yar: not a regular file")
    );
}

#[test]
fn a_link_to_nothing_is_not_passed_over() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.yar"), GOOD).unwrap();
    std::os::unix::fs::symlink("/nonexistent", dir.path().join("b.yar")).unwrap();
    assert!(
        matches!(RuleSource::collect(dir.path()), Err(RulesError::Missing { path }) if path.ends_with("b.yar"))
    );
}

#[test]
fn a_source_has_a_size_limit() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("huge.yar");
    File::create(&path)
        .unwrap()
        .set_len((16 << 20) + 1)
        .unwrap();
    assert!(matches!(
        RuleSource::collect(&path),
        Err(RulesError::TooLarge {
            size: 16_777_217,
            ..
        })
    ));
}

#[test]
fn descriptors_are_read_from_the_start_whatever_their_offset() {
    use std::io::Write as _;
    // Written through the same description: its offset is at the end.
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(GOOD.as_bytes()).unwrap();
    let sources =
        RuleSource::from_descriptors([("handed over".to_owned(), OwnedFd::from(file))]).unwrap();
    assert_eq!(sources, [source("handed over", GOOD)]);
}

#[test]
fn a_descriptor_of_a_pipe_is_refused_without_waiting() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let result = RuleSource::from_descriptors([("pipe".to_owned(), OwnedFd::from(reader))]);
    assert!(matches!(result, Err(RulesError::NotAFile { name }) if name == "pipe"));
}

const GOOD: &str = "rule good { condition: filesize > 0 }";

fn source(name: &str, text: &str) -> RuleSource {
    RuleSource {
        name: name.to_owned(),
        text: text.as_bytes().to_vec(),
    }
}

fn compile(sources: &[(&str, &str)]) -> Result<Rules, RulesError> {
    Rules::compile(sources.iter().map(|(name, text)| source(name, text)))
}

fn collect_error(path: &Path) -> String {
    RuleSource::collect(path).unwrap_err().to_string()
}
