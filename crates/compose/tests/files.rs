//! Files that cannot be read, and positions in more than one file.

mod common;

use common::{Directory, report};

fn errors(directory: &Directory, files: &[&str]) -> String {
    let errors = directory.load_files(files, &[]).expect_err("errors");
    let directory = directory.path().display().to_string();
    errors.to_string().replace(&directory, "DIR")
}

#[test]
fn no_file_at_all() {
    let directory = Directory::new();
    assert_eq!(
        errors(&directory, &[]),
        "error: no compose.yaml in DIR or a directory above it\n  = help: go to the project's \
         directory, or name the file with -f"
    );
    assert_eq!(
        errors(&directory, &["other.yaml"]),
        "error: cannot read other.yaml: No such file or directory (os error 2)"
    );
    assert!(errors(&directory, &["."]).starts_with("error: cannot read "));
}

#[test]
fn a_file_that_is_no_text() {
    assert_eq!(
        report(b"services:\n  caf\xe9: {image: i}\n"),
        "error: the file is not UTF-8\n  --> compose.yaml:2:6\n   |\n 2 |   caf\u{fffd}: {image: i}\n   |      \
         ^ save it as UTF-8"
    );
}

#[test]
fn each_error_names_its_own_file_and_they_are_in_order() {
    let directory = Directory::new()
        .with(".env", "1X=2\n")
        .with("a.yaml", "services:\n  a: {image: i, comand: x}\n")
        .with("b.yaml", "services:\n  b: {depends_on: [c], ports: [x]}\n");
    assert_eq!(
        errors(&directory, &["a.yaml", "b.yaml"]),
        "\
error: invalid variable name '1X'
  --> .env:1:1
   |
 1 | 1X=2
   | ^^ write NAME=value

error: unknown key 'comand' in service 'a'
  --> a.yaml:2:17
   |
 2 |   a: {image: i, comand: x}
   |                 ^^^^^^ did you mean 'command'?

error: service 'b' has neither 'image' nor 'build'
  --> b.yaml:2:3
   |
 2 |   b: {depends_on: [c], ports: [x]}
   |   ^ give it one of the two

error: service 'b' depends on 'c', which is not defined
  --> b.yaml:2:20
   |
 2 |   b: {depends_on: [c], ports: [x]}
   |                    ^

error: invalid port 'x': 'x' is no number
  --> b.yaml:2:32
   |
 2 |   b: {depends_on: [c], ports: [x]}
   |                                ^ write [ADDRESS:][HOST:]PORT[/tcp|udp]: 8080:80, 127.0.0.1:53:53/udp"
    );
}

#[test]
fn a_dependency_whose_profile_is_not_active() {
    assert_eq!(
        report("services:\n  a: {image: i, depends_on: [b]}\n  b: {image: i, profiles: [debug]}\n"),
        "error: service 'a' depends on 'b', whose profile is not active\n  --> compose.yaml:2:30\n   |\n 2 |   \
         a: {image: i, depends_on: [b]}\n   |                              ^ activate it with --profile \
         debug, or say 'required: false'"
    );
}

#[test]
fn a_broken_env_file_shows_its_own_line() {
    let directory = Directory::new().with("a.env", "A=1\nB=\"open\n").with(
        "compose.yaml",
        "services: {a: {image: i, env_file: a.env}}\n",
    );
    assert_eq!(
        errors(&directory, &["compose.yaml"]),
        "error: the value of 'B' has no closing \"\n  --> a.env:2:3\n   |\n 2 | B=\"open\n   |   ^^^^^"
    );
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let shown = report("services:\n  web: {image: i, \"co\\e[31mmand\": x}\n");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}
