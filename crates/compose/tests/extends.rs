//! `extends`: within a file, across files, and when it leads nowhere.

mod common;

use bulkhead_compose::ServiceMount;
use common::{Directory, good, report};

#[test]
fn a_service_begins_as_another() {
    let project = good(
        "\
services:
  base:
    image: i
    command: [a]
    environment: {A: 1, B: 1}
    ports: ['80:80']
    profiles: [never]
  middle: {extends: base, environment: {B: 2}, ports: ['81:81'], profiles: !reset []}
  web: {extends: {service: middle}, command: [b], environment: [C=3], ports: !override []}
",
    )
    .project;
    assert_eq!(
        project.services.keys().collect::<Vec<_>>(),
        ["middle", "web"]
    );
    let web = &project.services["web"];
    assert_eq!(web.image.as_deref(), Some("i"));
    assert_eq!(web.command, Some(vec!["b".to_owned()]));
    assert_eq!(
        web.environment.values().collect::<Vec<_>>(),
        ["1", "2", "3"]
    );
    assert!(web.ports.is_empty());
    assert_eq!(project.services["middle"].ports.len(), 2);
}

#[test]
fn paths_of_another_file_start_from_its_directory() {
    let directory = Directory::new()
        .with(
            "common/base.yaml",
            "\
services:
  deep: {build: ./app, env_file: [x.env], volumes: ['./data:/data', 'v:/v']}
  base: {extends: deep, working_dir: /srv}
",
        )
        .with("common/app/Dockerfile", "FROM scratch\n")
        .with("common/x.env", "X=1\n")
        .with(
            "compose.yaml",
            "services: {web: {extends: {file: common/base.yaml, service: base}, volumes: ['./own:/own']}}\nvolumes: {v: }\n",
        );
    let project = directory
        .load()
        .unwrap_or_else(|errors| panic!("{errors}"))
        .project;
    let web = &project.services["web"];
    let path = directory.path();
    let build = web.build.as_ref().expect("a build");
    assert_eq!(build.context, path.join("common/app"));
    assert_eq!(web.environment["X"], "1");
    assert_eq!(web.working_dir.as_deref(), Some("/srv"));
    let sources: Vec<_> = web
        .volumes
        .iter()
        .filter_map(|mount| match mount {
            ServiceMount::Bind { source, .. } => Some(source.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(sources, [path.join("common/data"), path.join("own")]);
}

#[test]
fn what_cannot_be_extended() {
    assert_eq!(
        report(
            "\
services:
  base: {image: i}
  a: {extends: bsae}
  b: {extends: {service: c}}
  c: {extends: b}
  d: {extends: {file: none.yaml, service: x}}
"
        ),
        "\
error: the service 'bsae' that is extended is not defined
  --> compose.yaml:3:16
   |
 3 |   a: {extends: bsae}
   |                ^^^^ did you mean 'base'?

error: services extend each other in a cycle: b → c → b
  --> compose.yaml:4:16
   |
 4 |   b: {extends: {service: c}}
   |                ^

error: cannot read DIR/none.yaml: No such file or directory (os error 2)
  --> compose.yaml:6:23
   |
 6 |   d: {extends: {file: none.yaml, service: x}}
   |                       ^^^^^^^^^ the path starts from this file's directory"
    );
}

#[test]
fn a_bomb_of_copies_is_refused() {
    let mut text = "services:\n  base:\n    image: i\n    environment:\n".to_owned();
    for number in 0..5000 {
        text.push_str(&format!("      A{number}: x\n"));
    }
    for number in 0..100 {
        text.push_str(&format!("  s{number}: {{extends: base}}\n"));
    }
    assert!(report(text).contains("the extended services have more than 200000 nodes"));
    let mut text = "services:\n  s0: {image: i}\n".to_owned();
    for number in 1..100 {
        text.push_str(&format!("  s{number}: {{extends: s{}}}\n", number - 1));
    }
    assert!(report(text).contains("more than 32 services extend each other"));
}
