//! Whatever the bytes are: an answer, and no panic.

mod common;

use common::{Directory, report};

/// A small generator (xorshift), so that a failure can be repeated from its number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("a file"))
        .collect()
}

fn load_all(directory: Directory, bytes: &[u8]) -> Directory {
    let directory = directory.with("compose.yaml", bytes);
    // Rendering must not panic either.
    let _ = match directory.load_files(&["compose.yaml"], &[("SET", "x")]) {
        Ok(loaded) => loaded.project.to_yaml(),
        Err(errors) => errors.to_string(),
    };
    directory
}

#[test]
fn truncated_files() {
    let mut directory = Directory::new();
    for text in corpus() {
        for end in (0..text.len()).step_by(11) {
            directory = load_all(directory, &text[..end]);
        }
    }
}

#[test]
fn mutated_files() {
    const PIECES: [&[u8]; 24] = [
        b"*",
        b"&a",
        b"*a",
        b"<<: ",
        b"${",
        b"${A:-",
        b"}",
        b"[",
        b"]",
        b"{",
        b"\"",
        b"'",
        b"\n",
        b"\t",
        b"!reset ",
        b"!override ",
        b"- ",
        b": ",
        b"#",
        b"|",
        b"\xff",
        b"\xf0\x9f\x9a\x80",
        b"99999999999999999999",
        b"null",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut directory = Directory::new();
    let corpus = corpus();
    for round in 0..2000 {
        let mut text = corpus[round % corpus.len()].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len());
            match random.below(4) {
                0 => text[at] = random.next() as u8,
                1 => {
                    text.remove(at);
                }
                2 => {
                    let until = (at + random.below(30)).min(text.len());
                    text.drain(at..until);
                }
                _ => {
                    let piece = PIECES[random.below(PIECES.len())];
                    text.splice(at..at, piece.iter().copied());
                }
            }
            if text.is_empty() {
                text.push(b'\n');
            }
        }
        directory = load_all(directory, &text);
    }
}

#[test]
fn random_bytes_and_random_yaml() {
    const ALPHABET: &[u8] = b"ab:- \n\n  []{},&*!|>'\"#%@`$~?<.0\t";
    let mut random = Random(42);
    let mut directory = Directory::new();
    for round in 0..2000 {
        let length = random.below(200);
        let bytes: Vec<u8> = (0..length)
            .map(|_| match round % 2 {
                0 => random.next() as u8,
                _ => ALPHABET[random.below(ALPHABET.len())],
            })
            .collect();
        directory = load_all(directory, &bytes);
    }
}

#[test]
fn every_value_of_every_wrong_shape() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../schema/compose-spec.json")).expect("the schema");
    let keys = schema["definitions"]["service"]["properties"]
        .as_object()
        .expect("properties");
    let mut directory = Directory::new();
    for key in keys.keys() {
        for value in [
            "",
            "x",
            "1",
            "-1",
            "true",
            "1.5",
            "[]",
            "{}",
            "[x]",
            "[[]]",
            "[{}]",
            "{x: y}",
            "{x: {}}",
            "''",
            "':'",
            "['']",
            "[':']",
            "['::']",
            "{'': ''}",
            "[null]",
            "{x: null}",
            "99999999999999999999",
            "'${A'",
            "[1, 1]",
            "{x: [y]}",
        ] {
            let text = format!("services: {{a: {{image: i, {key}: {value}}}}}\n");
            directory = load_all(directory, text.as_bytes());
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = |open: &str, close: &str| {
        let text = format!("x-a: {}{}\n", open.repeat(50_000), close.repeat(50_000));
        report(text)
    };
    assert!(deep("[", "]").contains("nested deeper than 64 levels"));
    assert!(deep("{a: ", "}").contains("nested deeper than 64 levels"));
    assert!(deep("- ", "").starts_with("error: "));
    let lines: String = (0..1000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert!(report(lines).contains("nested deeper than 64 levels"));
    let interpolated = format!(
        "name: '{}x{}'\n",
        "${A:-".repeat(20_000),
        "}".repeat(20_000)
    );
    assert!(report(interpolated).contains("variables are nested too deeply"));
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        let ten = vec![before; 10].join(", ");
        text.push_str(&format!("x-{level}: &a{level} [{ten}]\n"));
    }
    assert!(report(text).contains("more than 200000 nodes, aliases followed"));
    // Deep through aliases, without being deep in the text.
    let mut text = "x-0: &a0 [[[[[[[[[[x]]]]]]]]]]\n".to_owned();
    for level in 1..12 {
        text.push_str(&format!(
            "x-{level}: &a{level} [[[[[[[[[[*a{}]]]]]]]]]]\n",
            level - 1
        ));
    }
    assert!(report(text).contains("nested deeper than 64 levels, aliases followed"));
    assert!(report("x-a: &a [*a]\n").contains("an alias inside the very node that it names"));
}

#[test]
fn a_bomb_of_variables_is_refused() {
    let mut env = format!("A={}\n", "x".repeat(1000));
    for level in 1..30 {
        let before = if level == 1 {
            "A".to_owned()
        } else {
            format!("A{}", level - 1)
        };
        env.push_str(&format!("A{level}=${{{before}}}${{{before}}}\n"));
    }
    let directory = Directory::new()
        .with(".env", env)
        .with("compose.yaml", "services: {a: {image: a}}");
    let errors = directory.load().expect_err("too much").to_string();
    assert!(
        errors.contains("the variables make the text too long"),
        "{errors}"
    );
}

#[test]
fn a_huge_file_with_nothing_but_errors_gets_a_bounded_answer() {
    let mut text = "services: {a: {image: i, ".to_owned();
    for number in 0..50_000 {
        text.push_str(&format!("k{number}: ${{V{number}}}, "));
    }
    text.push_str("}}\n");
    assert!(report(text).len() < 200_000);
    assert!(report(vec![b'#'; (4 << 20) + 1]).contains("larger than 4 MiB"));
}

#[test]
fn many_services_load_in_linear_time() {
    let mut text = "services:\n".to_owned();
    for number in 0..5000 {
        text.push_str(&format!("  s{number}:\n    image: i\n"));
        if number > 0 {
            text.push_str(&format!("    depends_on: [s{}]\n", number - 1));
        }
    }
    let directory = Directory::new().with("compose.yaml", text);
    let project = directory.load().expect("a project").project;
    assert_eq!(project.start_order().len(), 5000);
}
