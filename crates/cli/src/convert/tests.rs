use std::collections::BTreeMap;

use bulkhead_api::bulkhead::{Dependency, DependencyCondition, ProjectSpec};
use bulkhead_api::docker::{RestartPolicyNameEnum, labels};
use bulkhead_compose::{LoadOptions, Project};

use super::*;

const COMPOSE: &str = r#"
name: shop
services:
  web:
    build: .
    runtime: microvm
    command: ["serve", "--fast"]
    entrypoint: []
    environment: {B: "2", A: "1"}
    ports: ["127.0.0.1:8080:80", "9000-9001:9000-9001"]
    expose: ["7000"]
    depends_on:
      db: {condition: service_healthy, restart: true}
    networks: {front: {aliases: [www]}, back: {}}
    deploy:
      replicas: 2
      resources: {limits: {memory: 64m, cpus: "0.5", pids: 100}}
    stop_grace_period: 1500ms
    ulimits: {nofile: {soft: 10, hard: 20}}
    security_opt: ["seccomp:unconfined"]
    tmpfs: ["/run:size=1m"]
  db:
    image: postgres:15
    volumes: ["data:/var/lib/postgresql", "./conf:/etc/conf:ro", "/scratch"]
    restart: on-failure:3
    healthcheck: {test: "pg_isready", interval: 1s, retries: 5}
    labels: {own: "yes"}
    container_name: the-db
    network_mode: host
volumes: {data: {}}
networks: {front: {}, back: {internal: true, ipam: {config: [{subnet: 10.9.0.0/24}]}}}
"#;

fn load(text: &str) -> (tempfile::TempDir, Project) {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("compose.yaml");
    std::fs::write(&file, text).expect("write");
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\n").expect("write");
    let loaded = bulkhead_compose::load(LoadOptions {
        files: vec![file],
        ..LoadOptions::default()
    });
    let project = loaded.unwrap_or_else(|error| panic!("{error}")).project;
    (directory, project)
}

fn spec(image_ids: &BTreeMap<String, String>) -> (tempfile::TempDir, ProjectSpec) {
    let (directory, project) = load(COMPOSE);
    (
        directory,
        project_spec(&project, image_ids).expect("specification"),
    )
}

#[test]
fn a_service_becomes_a_create_request() {
    let (_directory, spec) = spec(&BTreeMap::new());
    let web = spec
        .services
        .iter()
        .find(|one| one.name == "web")
        .expect("web");
    assert_eq!(web.replicas, 2);
    assert_eq!(web.stop_grace_period_seconds, Some(2));
    assert_eq!(
        web.depends_on,
        [Dependency {
            service: "db".into(),
            condition: DependencyCondition::Healthy,
            required: true,
            restart: true,
        }]
    );
    let body = &web.container;
    assert_eq!(body.image.as_deref(), Some("shop-web"));
    assert_eq!(body.cmd, Some(vec!["serve".into(), "--fast".into()]));
    assert_eq!(body.entrypoint, Some(vec![String::new()]));
    assert_eq!(body.env, Some(vec!["A=1".into(), "B=2".into()]));
    let exposed = body.exposed_ports.as_ref().expect("exposed ports");
    let mut exposed: Vec<&str> = exposed.keys().map(String::as_str).collect();
    exposed.sort_unstable();
    assert_eq!(exposed, ["7000/tcp", "80/tcp", "9000/tcp", "9001/tcp"]);

    let host = body.host_config.as_ref().expect("host configuration");
    assert_eq!(host.runtime.as_deref(), Some("microvm"));
    assert_eq!(host.memory, Some(64 << 20));
    assert_eq!(host.nano_cpus, Some(500_000_000));
    assert_eq!(host.pids_limit, Some(100));
    assert_eq!(host.security_opt, Some(vec!["seccomp=unconfined".into()]));
    assert_eq!(host.tmpfs.as_ref().expect("tmpfs")["/run"], "size=1m");
    let binding = &host.port_bindings.as_ref().expect("bindings")["80/tcp"];
    let binding = &binding.as_ref().expect("binding")[0];
    assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(binding.host_port.as_deref(), Some("8080"));
}

#[test]
fn networks_have_the_services_names_and_their_own() {
    let (_directory, spec) = spec(&BTreeMap::new());
    let back = spec
        .networks
        .iter()
        .find(|one| one.key == "back")
        .expect("back");
    assert_eq!((back.name.as_str(), back.internal), ("shop_back", true));
    assert_eq!(back.subnet.as_deref(), Some("10.9.0.0/24"));
    assert_eq!(back.labels[labels::NETWORK], "back");

    let web = spec
        .services
        .iter()
        .find(|one| one.name == "web")
        .expect("web");
    let endpoints = web.container.networking_config.clone().expect("networking");
    let endpoints = endpoints.endpoints_config.expect("endpoints");
    let aliases = endpoints["shop_front"].aliases.clone().expect("aliases");
    assert_eq!(aliases, ["web", "www"]);

    let db = spec
        .services
        .iter()
        .find(|one| one.name == "db")
        .expect("db");
    assert!(db.networks.is_empty() && db.container.networking_config.is_none());
    let host = db
        .container
        .host_config
        .as_ref()
        .expect("host configuration");
    assert_eq!(host.network_mode.as_deref(), Some("host"));
}

#[test]
fn volumes_labels_and_checks() {
    let (directory, spec) = spec(&BTreeMap::new());
    let db = spec
        .services
        .iter()
        .find(|one| one.name == "db")
        .expect("db");
    assert_eq!(db.container_name.as_deref(), Some("the-db"));
    let host = db
        .container
        .host_config
        .as_ref()
        .expect("host configuration");
    let mounts = host.mounts.as_ref().expect("mounts");
    let mount = |target: &str| {
        let found = mounts
            .iter()
            .find(|one| one.target.as_deref() == Some(target));
        found.unwrap_or_else(|| panic!("{target}")).clone()
    };
    assert_eq!(
        mount("/var/lib/postgresql").source.as_deref(),
        Some("shop_data")
    );
    assert_eq!(mount("/scratch").source, None);
    assert_eq!(mount("/etc/conf").read_only, Some(true));
    let source = mount("/etc/conf").source.expect("source");
    assert!(
        source.starts_with(&*directory.path().to_string_lossy()),
        "{source}"
    );
    let restart = host.restart_policy.clone().expect("restart");
    assert_eq!(restart.name, Some(RestartPolicyNameEnum::ON_FAILURE));
    assert_eq!(restart.maximum_retry_count, Some(3));
    let check = db.container.healthcheck.clone().expect("check");
    assert_eq!(check.test.expect("test"), ["CMD-SHELL", "pg_isready"]);
    assert_eq!(check.interval, Some(1_000_000_000));

    let all = db.container.labels.clone().expect("labels");
    assert_eq!(all["own"], "yes");
    assert_eq!(all[labels::PROJECT], "shop");
    assert_eq!(all[labels::SERVICE], "db");
    assert_eq!(all[labels::ONEOFF], "False");
    assert_eq!(all[labels::CONFIG_HASH], db.config_hash);
    assert!(all[labels::CONFIG_FILES].ends_with("compose.yaml"));
}

#[test]
fn a_new_image_or_runtime_needs_a_new_sandbox() {
    let hash = |text: &str, image_ids: &BTreeMap<String, String>| {
        let (_directory, project) = load(text);
        let spec = project_spec(&project, image_ids).expect("specification");
        spec.services[0].config_hash.clone()
    };
    let text = "name: a\nservices: {s: {image: i, runtime: container}}\n";
    let none = BTreeMap::new();
    let ids = BTreeMap::from([("i".to_owned(), "sha256:1".to_owned())]);
    assert_eq!(hash(text, &none), hash(text, &none));
    assert_ne!(hash(text, &none), hash(text, &ids));
    assert_ne!(
        hash(text, &none),
        hash(&text.replace("container", "microvm"), &none)
    );
}

#[test]
fn what_cannot_be_carried_out_is_named() {
    let text = "name: a\nservices: {s: {image: i, configs: [c]}}\nconfigs: {c: {content: x}}\n";
    let (_directory, project) = load(text);
    let error = project_spec(&project, &BTreeMap::new()).expect_err("no file");
    assert!(
        error
            .message()
            .contains("service 's': config 'c' has no file"),
        "{error}"
    );
}
