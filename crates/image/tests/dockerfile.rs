//! What a user sees of a wrong Dockerfile.

use bulkhead_image::dockerfile::{Command, CommandLine, Dockerfile};

fn error(text: &str) -> String {
    Dockerfile::parse("Dockerfile", text)
        .expect_err(text)
        .to_string()
}

#[test]
fn a_misspelt_instruction_is_shown_with_a_caret_and_a_suggestion() {
    assert_eq!(
        error("FROM scratch\n\n  RUNN make\n"),
        "unknown instruction 'RUNN'\n \
         --> Dockerfile:3:3\n  \
         |\n\
         3 |   RUNN make\n  \
         |   ^^^^ did you mean 'RUN'?"
    );
    let diagnostic = Dockerfile::parse("x/Dockerfile", "FORM debian").unwrap_err();
    assert_eq!((diagnostic.place.line, diagnostic.place.column), (1, 1));
    assert_eq!(diagnostic.offending(), "FORM");
    assert_eq!(diagnostic.help, "did you mean 'FROM'?");
    assert!(!error("FROM a\nBANANA x").contains("did you mean"));
}

#[test]
fn a_place_in_a_continued_line_is_found() {
    let text = error("FROM scratch\nENV A=1 \\\n  # comment\n\n    B=2 \\\n\tC\n");
    assert_eq!(
        text,
        "'C' is not of the form name=value\n \
         --> Dockerfile:6:2\n  \
         |\n\
         6 | \tC\n  \
         | \t^ put a value with spaces in quotes"
    );
}

#[test]
fn every_mistake_is_placed_and_explained() {
    for (text, place, part) in [
        ("", "1:1", "there is no FROM"),
        ("# only a comment\n", "1:1", "there is no FROM"),
        ("RUN x\nFROM a", "1:1", "only ARG may stand before"),
        ("FROM", "1:1", "FROM needs an argument"),
        ("FROM a b", "1:8", "AS name"),
        ("FROM a AS 1x", "1:11", "is no stage name"),
        ("FROM a AS x\nFROM b AS X", "2:1", "given twice"),
        ("FROM a\nCOPY --chwon=1 a b", "2:6", "did you mean 'chown'?"),
        ("FROM a\nENV A", "2:5", "write it as ENV A=value"),
        ("FROM a\nSHELL sh -c", "2:7", "JSON list"),
        ("FROM a\nHEALTHCHECK CMMD x", "2:13", "needs CMD"),
        (
            "FROM a\nHEALTHCHECK --interval=5 CMD x",
            "2:24",
            "is no duration",
        ),
        ("FROM a\nONBUILD FROM x", "2:9", "not allowed in ONBUILD"),
        ("FROM a\nONBUILD RUNN x", "2:9", "did you mean 'RUN'?"),
        ("FROM a\nRUN <<EOF\nx\n", "2:5", "does not end"),
        ("# escape=x\nFROM a", "1:10", "invalid escape character"),
        ("FROM a\nUSER a b", "2:8", "takes one argument"),
        ("FROM ä ö", "1:8", "AS name"),
    ] {
        let shown = error(text);
        assert!(
            shown.contains(&format!("--> Dockerfile:{place}\n")),
            "{text:?}: {shown}"
        );
        assert!(shown.contains(part), "{text:?}: {shown}");
    }
}

#[test]
fn lines_comments_and_directives_are_read_as_docker_does() {
    let text = "# syntax=docker/dockerfile:1\n# escape=`\n# comment\nfrom a as B\n\
        run one `\n# inside\n\n two\\\nRUN [\"x\", \"y z\"]\nRUN [ -f x ] && y\nCMD # no comment\n";
    let file = Dockerfile::parse("f", text).unwrap();
    assert_eq!(file.stages[0].name.as_deref(), Some("b"));
    let lines: Vec<_> = file.stages[0]
        .instructions
        .iter()
        .map(|instruction| match &instruction.command {
            Command::Run(run) => run.command.clone(),
            Command::Cmd(line) => line.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    let shell = |text: &str| CommandLine::Shell(text.to_owned());
    assert_eq!(
        lines,
        [
            shell("one  two\\"),
            CommandLine::Exec(vec!["x".to_owned(), "y z".to_owned()]),
            shell("[ -f x ] && y"),
            shell("# no comment"),
        ]
    );
    // A byte order mark and carriage returns do no harm.
    let file = Dockerfile::parse("f", "\u{feff}FROM a\r\nRUN x \\\r\n y\r\n").unwrap();
    assert_eq!(file.stages[0].instructions.len(), 1);
}

#[test]
fn no_text_makes_the_parser_panic() {
    // Every prefix and many mutations of a file that uses everything.
    let text = "# escape=\\\nARG A=1\nFROM a:${A:-x} AS b\nENV X=\"y z\" W='q'\nRUN --mount=type=cache,target=/c <<E\nä\nE\n\
        COPY --from=b [\"a\", \"b\"]\nHEALTHCHECK --interval=1s CMD x\nEXPOSE 1-2/udp\nONBUILD ADD x /y\nLABEL a=b \\\n c=d\n";
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _ = Dockerfile::parse("f", &text[..end]);
        for insert in [
            "\"", "'", "\\", "\n", "<<", "[", "$", "${", "=", "\u{0}", "ö", "--",
        ] {
            let _ = Dockerfile::parse("f", &format!("{}{insert}{}", &text[..end], &text[end..]));
        }
    }
}
