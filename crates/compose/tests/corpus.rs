//! Files as people write them load, mean what they say, and survive being written and read again.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_compose::{
    DependencyCondition, HealthcheckTest, LoadOptions, Loaded, Project, RestartPolicy,
    ServiceMount, ServiceNetworkMode, UlimitRange, load,
};
use bulkhead_model::{ByteSize, Kind};
use common::Directory;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn read(name: &str) -> Loaded {
    load(LoadOptions {
        files: vec![corpus().join(name)],
        ..LoadOptions::default()
    })
    .unwrap_or_else(|errors| panic!("{name}:\n{errors}"))
}

fn project(name: &str) -> Project {
    read(name).project
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn every_file_loads_and_its_canonical_form_is_the_same_project() {
    let mut count = 0;
    let mut names: Vec<_> = std::fs::read_dir(corpus())
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    for name in names {
        let name = name.to_string_lossy().into_owned();
        if !name.ends_with(".yaml") {
            continue;
        }
        count += 1;
        let mut first = project(&name);
        let text = first.to_yaml();
        let directory = Directory::new().with("compose.yaml", &text);
        let mut second = directory
            .load_files(&["compose.yaml"], &[])
            .unwrap_or_else(|errors| panic!("{name}:\n{text}\n{errors}"))
            .project;
        assert_eq!(second.to_yaml(), text, "{name}");
        for service in first.services.keys() {
            let hashes = [first.config_hash(service), second.config_hash(service)];
            assert_eq!(hashes[0], hashes[1], "{name}: {service}");
        }
        // What is not part of the text.
        second.files = first.files.clone();
        second.directory = first.directory.clone();
        first.disabled_services.clear();
        assert_eq!(second, first, "{name}");
    }
    assert!(count >= 12, "{count} files");
}

#[test]
fn the_example_loads_on_each_kind() {
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    for (overriding, kinds) in [
        (None, vec![Kind::Container, Kind::Microvm]),
        (Some("compose.containers.yaml"), vec![Kind::Container]),
        (Some("compose.microvms.yaml"), vec![Kind::Microvm]),
    ] {
        let names = std::iter::once("compose.yaml").chain(overriding);
        let loaded = load(LoadOptions {
            files: names.map(|name| shop.join(name)).collect(),
            ..LoadOptions::default()
        });
        let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.warnings, []);
        let found: std::collections::HashSet<Kind> =
            loaded.project.services.values().map(|s| s.kind).collect();
        assert_eq!(found, kinds.into_iter().collect());
        let order = loaded.project.start_order();
        assert_eq!(order.last(), Some(&vec!["storefront".to_owned()]));
    }
}

#[test]
fn only_what_is_not_carried_out_is_warned_about() {
    let warnings = |name: &str| {
        let found = read(name).warnings;
        found
            .into_iter()
            .map(|w| (w.line, w.message))
            .collect::<Vec<_>>()
    };
    for name in [
        "01-nginx-static.yaml",
        "03-django-celery.yaml",
        "04-mean.yaml",
        "06-mixed-kinds.yaml",
        "07-profiles.yaml",
        "08-json.yaml",
        "09-kafka.yaml",
        "11-external.yaml",
        "12-unicode.yaml",
    ] {
        assert_eq!(warnings(name), [], "{name}");
    }
    let version = "'version' is obsolete and is ignored".to_owned();
    assert_eq!(warnings("02-wordpress.yaml"), [(1, version)]);
    let ignored = |line, key: &str, place: &str| {
        (
            line,
            format!("'{key}' in {place} is not supported and is ignored"),
        )
    };
    assert_eq!(
        warnings("10-rails.yaml"),
        [
            ignored(8, "cache_from", "'build' of service 'app'"),
            ignored(19, "platform", "service 'app'"),
        ]
    );
}

#[test]
fn a_web_server() {
    let project = project("01-nginx-static.yaml");
    assert_eq!(project.name, "corpus");
    let web = &project.services["web"];
    assert_eq!(web.kind, Kind::Container);
    assert_eq!(web.restart, RestartPolicy::UnlessStopped);
    assert!(web.read_only);
    assert_eq!(web.tmpfs, ["/var/cache/nginx", "/run:size=16m,mode=1777"]);
    assert_eq!(web.ports[0].published, Some((8080, 8080)));
    assert_eq!(web.ports[1].host_ip, Some([127, 0, 0, 1].into()));
    let ServiceMount::Bind {
        source, read_only, ..
    } = &web.volumes[0]
    else {
        panic!("{:?}", web.volumes);
    };
    assert_eq!((source, *read_only), (&corpus().join("public"), true));
    assert_eq!(web.networks[0].network, "default");
    assert_eq!(project.networks["default"].name, "corpus_default");
}

#[test]
fn a_database_behind_a_blog() {
    let project = project("02-wordpress.yaml");
    let (db, blog) = (&project.services["db"], &project.services["wordpress"]);
    assert_eq!(
        db.command.as_deref(),
        Some(
            &[
                "--transaction-isolation=READ-COMMITTED".into(),
                "--log-bin=binlog".into()
            ][..]
        )
    );
    assert_eq!(db.environment["MARIADB_ROOT_PASSWORD"], "change me");
    assert_eq!(blog.environment["WORDPRESS_DB_PASSWORD"], "wordpress");
    let check = db.healthcheck.as_ref().expect("a health check");
    assert_eq!(check.start_period, Some(Duration::from_secs(90)));
    assert_eq!(check.retries, Some(5));
    let dependency = &blog.depends_on["db"];
    assert_eq!(dependency.condition, DependencyCondition::Healthy);
    assert!(dependency.restart && dependency.required);
    assert_eq!(project.volumes["wp_data"].name, "corpus_wp_data");
}

#[test]
fn anchors_and_merge_keys() {
    let project = project("03-django-celery.yaml");
    assert_eq!(project.name, "django-shop");
    let (web, worker) = (&project.services["web"], &project.services["worker"]);
    assert_eq!(
        web.environment,
        map(&[
            ("DATABASE_URL", "postgres://app:app@db/app"),
            ("DJANGO_SETTINGS_MODULE", "shop.settings"),
            ("REDIS_URL", "redis://redis:6379/0"),
            ("WORKERS", "4"),
        ])
    );
    let build = worker.build.as_ref().expect("a build");
    assert_eq!(
        build.args,
        map(&[("DEBUG", "0"), ("PYTHON_VERSION", "3.12")])
    );
    assert_eq!(
        (build.context.clone(), build.target.as_deref()),
        (corpus(), Some("runtime"))
    );
    assert_eq!(
        build.dockerfile.as_deref(),
        Some(Path::new("docker/Dockerfile"))
    );
    assert_eq!(worker.stop_grace_period, Some(Duration::from_secs(60)));
    assert!(worker.init);
    assert_eq!(
        web.expose.iter().map(|e| e.port).collect::<Vec<_>>(),
        [8000, 9000, 9001]
    );
    assert_eq!(web.labels["bulkhead.http.port"], "8000");
    assert_eq!(web.deploy.replicas, 2);
    let limits = &web.deploy.resources.limits;
    assert_eq!(limits.memory, Some(ByteSize::from_mib(256)));
    assert_eq!((limits.cpu_millis, limits.pids), (Some(500), Some(200)));
    let redis = &project.services["redis"];
    let command = ["redis-server", "--save", "", "--appendonly", "no"].map(String::from);
    assert_eq!(redis.command.as_deref(), Some(&command[..]));
    assert_eq!(project.volumes["pg"].name, "shop-pg");
    assert_eq!(
        project.start_order(),
        [vec!["db", "redis"], vec!["beat", "web", "worker"]]
    );
}

#[test]
fn networks_with_aliases_and_addresses() {
    let project = project("04-mean.yaml");
    let api = &project.services["api"];
    assert_eq!(api.networks[1].aliases, ["backend", "api.internal"]);
    assert_eq!(api.networks[0].ipv4_address, Some([172, 28, 5, 10].into()));
    assert_eq!(api.environment, map(&[("SECRET", "x")]));
    let back = &project.networks["back"];
    assert!(back.internal);
    assert_eq!(
        back.subnet.map(|subnet| subnet.to_string()).as_deref(),
        Some("172.28.5.0/24")
    );
    assert!(!project.networks.contains_key("default"));
    let frontend = &project.services["frontend"];
    assert!(frontend.stdin_open && frontend.tty);
    assert_eq!(frontend.environment["CHOKIDAR_USEPOLLING"], "true");
    let anonymous = &project.services["mongo"].volumes[1];
    assert!(
        matches!(anonymous, ServiceMount::Volume { source: None, target, .. } if target == "/data/configdb")
    );
}

#[test]
fn secrets_hosts_and_security() {
    let project = project("05-monitoring.yaml");
    let exporter = &project.services["node-exporter"];
    assert_eq!(exporter.network_mode, Some(ServiceNetworkMode::Host));
    assert!(exporter.networks.is_empty() && exporter.privileged);
    assert_eq!(
        exporter.security_opt,
        ["no-new-privileges:true", "seccomp:unconfined"]
    );
    let grafana = &project.services["grafana"];
    assert_eq!(grafana.secrets[0].target, "/run/secrets/admin");
    let hosts = &project.services["prometheus"].extra_hosts;
    assert_eq!(
        hosts[0],
        ("host.docker.internal".into(), "host-gateway".into())
    );
    assert_eq!(hosts[1], ("router".into(), "10.0.0.1".into()));
}

#[test]
fn kinds_replicas_and_order() {
    let project = project("06-mixed-kinds.yaml");
    assert_eq!(project.services["payments"].kind, Kind::Microvm);
    assert_eq!(
        project.services["payments"]
            .deploy
            .resources
            .limits
            .cpu_millis,
        Some(1500)
    );
    assert_eq!(project.services["catalog"].deploy.replicas, 3);
    assert_eq!(
        project.services["migrate"].restart,
        RestartPolicy::OnFailure(Some(3))
    );
    let check = project.services["db"]
        .healthcheck
        .as_ref()
        .expect("a health check");
    assert_eq!(
        check.test,
        Some(HealthcheckTest::Shell("pg_isready -U shop".into()))
    );
    assert_eq!(check.start_interval, Some(Duration::from_millis(500)));
    assert_eq!(
        project.start_order(),
        [
            vec!["catalog", "db", "payments"],
            vec!["migrate"],
            vec!["orders"],
            vec!["storefront"]
        ]
    );
}

#[test]
fn limits_and_shell_text() {
    let project = project("09-kafka.yaml");
    let kafka = &project.services["kafka"];
    assert_eq!(
        kafka.deploy.resources.limits.memory,
        Some(ByteSize::from_mib(1024))
    );
    assert_eq!(
        kafka.deploy.resources.reservations.memory,
        Some(ByteSize::from_mib(512))
    );
    assert_eq!(kafka.memory_swap_limit, Some(ByteSize(u64::MAX)));
    assert_eq!(
        (kafka.cpu_shares, kafka.oom_score_adj),
        (Some(512), Some(-100))
    );
    let check = kafka.healthcheck.as_ref().expect("a health check");
    assert_eq!(
        (check.interval, check.retries),
        (Some(Duration::from_secs(5)), Some(20))
    );
    let script = &project.services["init-topics"]
        .command
        .as_ref()
        .expect("a command")[0];
    assert!(
        script.contains("echo \"$topic costs ${PRICE}\"\n"),
        "{script}"
    );
    assert!(
        project.services["ui"]
            .healthcheck
            .as_ref()
            .expect("one")
            .disable
    );
    let json = self::project("08-json.yaml");
    let api = &json.services["api"];
    assert_eq!(
        api.environment,
        map(&[("A", "1"), ("C", "false"), ("D", "1.50")])
    );
    assert_eq!(api.ports.len(), 4);
    assert_eq!(api.ports[3].published, Some((9000, 9010)));
    assert_eq!(
        api.ulimits["memlock"],
        UlimitRange {
            soft: u64::MAX,
            hard: u64::MAX
        }
    );
}

#[test]
fn external_objects_keep_their_names() {
    let project = project("11-external.yaml");
    assert_eq!(project.networks["proxy"].name, "edge");
    assert_eq!(project.networks["default"].name, "corpus_default");
    assert!(project.volumes["shared"].external);
    assert_eq!(project.volumes["shared"].name, "shared");
    let ServiceMount::Tmpfs { options, .. } = &project.services["app"].volumes[1] else {
        panic!("a tmpfs");
    };
    assert_eq!(
        (options.size, options.mode),
        (Some(ByteSize::from_mib(64)), Some(0o1777))
    );
}
