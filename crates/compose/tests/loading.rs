//! Several files, variables, profiles, names: what happens around a single file.

mod common;

use bulkhead_compose::{LoadOptions, RestartPolicy, discover, load};
use common::{Directory, good};

const BASE: &str = "\
services:
  web:
    image: web:1
    command: [serve, --slow]
    ports: ['8080:80', '9090:90']
    volumes: ['./a:/data', 'cache:/cache']
    environment: [A=1, B=2]
    depends_on: [db]
    healthcheck: {test: [CMD, a, b], interval: 5s}
    dns: 10.0.0.1
  db: {image: db}
volumes: {cache: }
";

#[test]
fn later_files_are_merged_into_earlier_ones() {
    let directory = Directory::new().with("a.yaml", BASE).with(
        "b.yaml",
        "\
services:
  web:
    command: run
    ports: ['8080:80', '7070:70']
    volumes: ['./b:/data:ro']
    environment: {B: two, C: 3}
    depends_on: {cache: {condition: service_healthy}}
    healthcheck: {test: other, retries: 3}
    dns: [10.0.0.2]
    build: .
  cache: {image: cache, restart: always}
",
    );
    let project = directory
        .load_files(&["a.yaml", "b.yaml"], &[])
        .expect("both files")
        .project;
    let web = &project.services["web"];
    assert_eq!(web.image.as_deref(), Some("web:1"));
    assert_eq!(web.command, Some(vec!["run".to_owned()]));
    let ports: Vec<u16> = web.ports.iter().map(|port| port.target).collect();
    assert_eq!(ports, [80, 90, 70]);
    assert_eq!(web.volumes.len(), 2);
    let yaml = project.to_yaml();
    assert!(
        yaml.contains(&format!("source: {}/b", directory.path().display())),
        "{yaml}"
    );
    let environment: Vec<(&str, &str)> = web
        .environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(environment, [("A", "1"), ("B", "two"), ("C", "3")]);
    assert_eq!(web.depends_on.len(), 2);
    let check = web.healthcheck.as_ref().expect("a health check");
    assert_eq!(
        check.test.as_ref().expect("a test").to_docker(),
        ["CMD-SHELL", "other"]
    );
    assert!(check.interval.is_some() && check.retries == Some(3));
    assert_eq!(web.dns.len(), 2);
    assert!(web.build.is_some());
    assert_eq!(project.services["cache"].restart, RestartPolicy::Always);
}

#[test]
fn reset_removes_and_override_replaces() {
    let directory = Directory::new().with("a.yaml", BASE).with(
        "b.yaml",
        "\
services:
  web:
    ports: !override ['1:1']
    volumes: !reset []
    environment:
      A: !reset null
    healthcheck: !reset null
",
    );
    let loaded = directory
        .load_files(&["a.yaml", "b.yaml"], &[])
        .expect("both files");
    let web = &loaded.project.services["web"];
    assert_eq!(web.ports.len(), 1);
    assert!(web.volumes.is_empty() && web.healthcheck.is_none());
    assert_eq!(web.environment.keys().collect::<Vec<_>>(), ["B"]);
}

#[test]
fn files_are_found_here_and_above() {
    let directory = Directory::new()
        .with("docker-compose.yml", "services: {}")
        .with("compose.yml", "services: {}")
        .with("compose.override.yaml", "services: {}")
        .with("deep/er/x", "");
    let path = directory.path();
    let found = discover(&path.join("deep/er")).expect("files");
    assert_eq!(
        found,
        [path.join("compose.yml"), path.join("compose.override.yaml")]
    );
    assert_eq!(discover(&Directory::new().path().join("none")), None);
}

#[test]
fn the_caller_goes_before_the_env_file_which_goes_before_defaults() {
    let directory = Directory::new()
        .with(".env", "TAG=env\nNAME=file\nexport QUOTED='a $b'\nCOMPOSE_PROFILES=x,y\n")
        .with(
            "compose.yaml",
            "services:\n  a: {image: '${NAME}:${TAG}-${NONE:-d}', hostname: $COMPOSE_PROJECT_NAME}\n  b:\n    \
             image: b\n    profiles: [x]\n    environment: [TAG, NONE, 'Q=${QUOTED}']\n",
        );
    let loaded = directory.load_files(
        &["compose.yaml"],
        &[("TAG", "own"), ("COMPOSE_PROJECT_NAME", "p")],
    );
    let project = loaded.expect("a project").project;
    assert_eq!(project.services["a"].image.as_deref(), Some("file:own-d"));
    assert_eq!(project.services["a"].hostname.as_deref(), Some("p"));
    let environment = &project.services["b"].environment;
    assert_eq!(environment.get("TAG").map(String::as_str), Some("own"));
    assert_eq!(environment.get("Q").map(String::as_str), Some("a $b"));
    assert!(!environment.contains_key("NONE"));
}

#[test]
fn env_files_are_read_in_order_and_below_the_environment() {
    let directory = Directory::new()
        .with("a.env", "A=1\nB=1\nC=1\n")
        .with("raw.env", "B='$x'\n")
        .with(
            "compose.yaml",
            "services:\n  s:\n    image: i\n    env_file:\n      - a.env\n      - {path: raw.env, format: raw}\n      \
             - {path: none.env, required: false}\n    environment: {C: 2}\n",
        );
    let project = directory.load().expect("a project").project;
    let found: Vec<&str> = project.services["s"]
        .environment
        .values()
        .map(String::as_str)
        .collect();
    assert_eq!(found, ["1", "'$x'", "2"]);
}

#[test]
fn compose_file_names_the_files() {
    let directory = Directory::new()
        .with(".env", "COMPOSE_FILE=one.yaml:two.yaml\n")
        .with("one.yaml", "services: {a: {image: a}}")
        .with("two.yaml", "services: {b: {image: b}}")
        .with("compose.yaml", "services: {c: {image: c}}");
    let project = directory.load().expect("a project").project;
    assert_eq!(project.services.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(project.files.len(), 2);
}

#[test]
fn the_projects_name() {
    let directory = Directory::new()
        .with("My App.v2/compose.yaml", "services: {a: {image: a}}")
        .with(
            "named/compose.yaml",
            "name: x-$SUFFIX\nservices: {a: {image: a}}",
        );
    let name = |folder: &str, given: Option<&str>, variables: &[(&str, &str)]| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let loaded = load(LoadOptions {
            files: vec![directory.path().join(folder).join("compose.yaml")],
            project_name: given.map(str::to_owned),
            environment: variables.iter().map(owned).collect(),
            ..LoadOptions::default()
        });
        loaded.map(|loaded| loaded.project.name)
    };
    assert_eq!(name("My App.v2", None, &[]).as_deref(), Ok("myappv2"));
    assert_eq!(
        name("named", None, &[("SUFFIX", "1")]).as_deref(),
        Ok("x-1")
    );
    let variables = [("COMPOSE_PROJECT_NAME", "env"), ("SUFFIX", "")];
    assert_eq!(name("named", None, &variables).as_deref(), Ok("env"));
    assert_eq!(name("named", Some("cli"), &variables).as_deref(), Ok("cli"));
    let error = name("named", Some("Not Good"), &variables).expect_err("an invalid name");
    assert_eq!(
        error.to_string(),
        "error: invalid project name 'Not Good'\n  = help: use lower-case letters, digits, '-' and \
         '_'; begin with a letter or a digit"
    );
}

#[test]
fn profiles_switch_services_on() {
    let text = "\
services:
  app: {image: a}
  debug: {image: d, profiles: [debug], depends_on: [trace]}
  trace: {image: t, profiles: [debug, trace]}
";
    let directory = Directory::new().with("compose.yaml", text);
    let services = |profiles: &[&str]| {
        let loaded = load(LoadOptions {
            profiles: profiles.iter().map(|name| (*name).to_owned()).collect(),
            ..directory.options()
        });
        let project = loaded.expect("a project").project;
        project.services.into_keys().collect::<Vec<_>>().join(",")
    };
    assert_eq!(services(&[]), "app");
    assert_eq!(services(&["trace"]), "app,trace");
    assert_eq!(services(&["debug"]), "app,debug,trace");
    assert_eq!(services(&["*"]), "app,debug,trace");
    let mut project = directory.load().expect("a project").project;
    assert!(project.enable("debug") && !project.enable("nobody"));
    assert_eq!(project.services.len(), 3);
}

#[test]
fn the_hash_changes_with_the_sandbox_and_with_nothing_else() {
    let hash = |service: &str, rest: &str| {
        let text =
            format!("name: p\nservices:\n  a: {{image: i, {service}}}\n  b: {{image: b}}\n{rest}");
        good(&text).project.config_hash("a").expect("a hash")
    };
    let plain = hash("init: false", "");
    assert_eq!(plain.len(), 64);
    for same in [
        "depends_on: [b]",
        "scale: 3",
        "deploy: {replicas: 2}",
        "build: .",
        "pull_policy: never",
        "environment: []",
    ] {
        assert_eq!(hash(same, ""), plain, "{same}");
    }
    for other in [
        "init: true",
        "runtime: microvm",
        "command: x",
        "environment: [A=1]",
        "mem_limit: 64m",
        "ports: ['80']",
        "labels: [a]",
        "restart: always",
    ] {
        assert_ne!(hash(other, ""), plain, "{other}");
    }
    assert_ne!(
        hash("init: false", "networks: {default: {internal: true}}"),
        plain
    );
}

#[test]
fn a_mark_at_the_beginning_and_windows_line_ends_are_fine() {
    let project = good("\u{feff}services:\r\n  a:\r\n    image: i\r\n    command: x y\r\n").project;
    assert_eq!(
        project.services["a"].command,
        Some(vec!["x".into(), "y".into()])
    );
}

#[test]
fn any_text_survives_being_written_and_read() {
    let texts = [
        "",
        " ",
        " lead",
        "trail ",
        "a: b",
        "a #b",
        "#x",
        "- x",
        "-",
        "?",
        "@at",
        "`tick`",
        "%p",
        "{a}",
        "[a]",
        "*a",
        "&a",
        "!t",
        "|",
        ">",
        "'",
        "\"",
        "\\",
        "a\nb",
        "\ta",
        "yes",
        "No",
        "null",
        "~",
        "1",
        "1.5",
        "0x1",
        "1e3",
        ".5",
        "true",
        "$A",
        "$$",
        "${A}",
        "größe 日本 🚀",
        "a,b",
        "a]b",
        "2024-01-01",
        "12:30",
        "=",
        "<<",
        "---",
        "...",
        "\u{7f}",
        "\u{85}",
        "\u{feff}",
        "\u{2028}",
        "\r\n",
        "x:",
    ];
    let mut project = good("name: p\nservices: {a: {image: i}}").project;
    let service = project.services.get_mut("a").expect("a");
    for (number, text) in texts.iter().enumerate() {
        service
            .environment
            .insert(format!("V{number}"), (*text).to_owned());
        service
            .labels
            .insert(format!("k {text}"), (*text).to_owned());
    }
    service.command = Some(texts.iter().map(|text| (*text).to_owned()).collect());
    let again = good(&project.to_yaml()).project;
    assert_eq!(again.services["a"], project.services["a"]);
    let json = serde_json::to_string(&project.to_json()).expect("JSON");
    assert_eq!(good(&json).project.services["a"], project.services["a"]);
}
