//! What a user reads about values and references that are wrong: the exact text.

mod common;

use common::report;

/// What is reported about the file that begins with a service `web` and goes on with `rest`.
#[track_caller]
fn web(rest: &str, expected: &str) {
    file(
        &format!("services:\n  web:\n    image: i\n{rest}"),
        expected,
    );
}

#[track_caller]
fn file(text: &str, expected: &str) {
    let report = report(text);
    assert_eq!(report, expected.trim_matches('\n'), "\n{report}");
}

#[test]
fn names_that_lead_nowhere() {
    web(
        r#"    volumes: ["cachee:/c", "other:/o"]
    networks: [frnt]
    depends_on: [wbe, db]
    secrets: [s]
    configs: [{source: c}]
  bd: {image: i}
volumes: {cache: }
networks: {front: }
"#,
        r#"
error: undefined volume 'cachee' in service 'web'
  --> compose.yaml:4:15
   |
 4 |     volumes: ["cachee:/c", "other:/o"]
   |               ^^^^^^^^^^^ did you mean 'cache'?

error: undefined volume 'other' in service 'web'
  --> compose.yaml:4:28
   |
 4 |     volumes: ["cachee:/c", "other:/o"]
   |                            ^^^^^^^^^^ define it under the top-level key 'volumes'

error: undefined network 'frnt' in service 'web'
  --> compose.yaml:5:16
   |
 5 |     networks: [frnt]
   |                ^^^^ did you mean 'front'?

error: service 'web' depends on 'wbe', which is not defined
  --> compose.yaml:6:18
   |
 6 |     depends_on: [wbe, db]
   |                  ^^^

error: service 'web' depends on 'db', which is not defined
  --> compose.yaml:6:23
   |
 6 |     depends_on: [wbe, db]
   |                       ^^ did you mean 'bd'?

error: undefined secret 's' in service 'web'
  --> compose.yaml:7:15
   |
 7 |     secrets: [s]
   |               ^ define it under the top-level key 'secrets'

error: undefined config 'c' in service 'web'
  --> compose.yaml:8:24
   |
 8 |     configs: [{source: c}]
   |                        ^ define it under the top-level key 'configs'
"#,
    );
}

#[test]
fn cycles() {
    file(
        r"services:
  a: {image: i, depends_on: [b]}
  b: {image: i, depends_on: [c]}
  c: {image: i, depends_on: {a: {condition: service_healthy}}}
  d: {image: i, depends_on: [d]}
  e: {image: i, depends_on: [a]}
",
        r"
error: services depend on each other in a cycle: a → b → c → a
  --> compose.yaml:4:30
   |
 4 |   c: {image: i, depends_on: {a: {condition: service_healthy}}}
   |                              ^ remove one of these dependencies

error: services depend on each other in a cycle: d → d
  --> compose.yaml:5:30
   |
 5 |   d: {image: i, depends_on: [d]}
   |                              ^ remove one of these dependencies
",
    );
}

#[test]
fn ports() {
    web(
        r#"    ports:
      - 99999:80
      - "80:http"
      - "1-2:1-3"
      - {target: 80, published: 70000, host_ip: nowhere, protocol: sctp}
      - {published: 80}
      - {target: 0}
    expose: [x]
"#,
        r#"
error: invalid port '99999:80': 99999 is not between 1 and 65535
  --> compose.yaml:5:9
   |
 5 |       - 99999:80
   |         ^^^^^^^^ write [ADDRESS:][HOST:]PORT[/tcp|udp]: 8080:80, 127.0.0.1:53:53/udp

error: invalid port '80:http': 'http' is no number
  --> compose.yaml:6:9
   |
 6 |       - "80:http"
   |         ^^^^^^^^^ write [ADDRESS:][HOST:]PORT[/tcp|udp]: 8080:80, 127.0.0.1:53:53/udp

error: invalid port '1-2:1-3': the two ranges are of different length
  --> compose.yaml:7:9
   |
 7 |       - "1-2:1-3"
   |         ^^^^^^^^^ write [ADDRESS:][HOST:]PORT[/tcp|udp]: 8080:80, 127.0.0.1:53:53/udp

error: invalid port '70000': 70000 is not between 1 and 65535
  --> compose.yaml:8:33
   |
 8 |       - {target: 80, published: 70000, host_ip: nowhere, protocol: sctp}
   |                                 ^^^^^

error: invalid address 'nowhere': 'nowhere' is no IP address
  --> compose.yaml:8:49
   |
 8 |       - {target: 80, published: 70000, host_ip: nowhere, protocol: sctp}
   |                                                 ^^^^^^^

error: invalid protocol 'sctp': 'sctp' is neither tcp nor udp
  --> compose.yaml:8:68
   |
 8 |       - {target: 80, published: 70000, host_ip: nowhere, protocol: sctp}
   |                                                                    ^^^^

error: a port needs the key 'target'
  --> compose.yaml:9:9
   |
 9 |       - {published: 80}
   |         ^

error: invalid port '0': 0 is not between 1 and 65535
   --> compose.yaml:10:18
    |
 10 |       - {target: 0}
    |                  ^

error: invalid port 'x': 'x' is no number
   --> compose.yaml:11:14
    |
 11 |     expose: [x]
    |              ^ write PORT[-LAST][/tcp|udp]: 8080, 53/udp
"#,
    );
}

#[test]
fn ports_that_are_taken() {
    web(
        r#"    ports: ["80:80", "80:81", "127.0.0.1:9:9", "53:53/udp"]
  two: {image: i, ports: ["8080:80", "80:80", "127.0.0.2:9:9", "53:53/tcp"]}
  three: {image: i, ports: ["9:9", "9000-9010:80", "9000:1"]}
"#,
        r#"
error: port 80/tcp of the host is taken twice by service 'web'
  --> compose.yaml:4:22
   |
 4 |     ports: ["80:80", "80:81", "127.0.0.1:9:9", "53:53/udp"]
   |                      ^^^^^^^ publish another port

error: port 80/tcp of the host is taken by service 'web' in line 4
  --> compose.yaml:5:38
   |
 5 |   two: {image: i, ports: ["8080:80", "80:80", "127.0.0.2:9:9", "53:53/tcp"]}
   |                                      ^^^^^^^ publish another port

error: port 9/tcp of the host is taken by service 'web' in line 4
  --> compose.yaml:6:29
   |
 6 |   three: {image: i, ports: ["9:9", "9000-9010:80", "9000:1"]}
   |                             ^^^^^ publish another port
"#,
    );
}

#[test]
fn durations_sizes_and_numbers() {
    web(
        r#"    stop_grace_period: 10
    healthcheck: {interval: 5x, timeout: "-1s", retries: many}
    mem_limit: lots
    shm_size: -1
    cpus: -2
    pids_limit: 1.5
    scale: "-1"
    ulimits: {nofil: 1, nofile: {soft: 5, hard: 2}}
  small: {image: i, mem_limit: 1m, tty: maybe}
"#,
        r#"
error: 'stop_grace_period' of service 'web' must be a string, not an integer
  --> compose.yaml:4:24
   |
 4 |     stop_grace_period: 10
   |                        ^^ write it with a unit: 10s

error: invalid duration for 'interval': '5x'
  --> compose.yaml:5:29
   |
 5 |     healthcheck: {interval: 5x, timeout: "-1s", retries: many}
   |                             ^^ write numbers with units: 500ms, 10s, 1m30s

error: invalid duration for 'timeout': '-1s'
  --> compose.yaml:5:42
   |
 5 |     healthcheck: {interval: 5x, timeout: "-1s", retries: many}
   |                                          ^^^^^ write numbers with units: 500ms, 10s, 1m30s

error: invalid value for 'retries': 'many'
  --> compose.yaml:5:58
   |
 5 |     healthcheck: {interval: 5x, timeout: "-1s", retries: many}
   |                                                          ^^^^ use a whole number from 0 to 2147483647

error: invalid size for 'mem_limit': 'lots'
  --> compose.yaml:6:16
   |
 6 |     mem_limit: lots
   |                ^^^^ write a number and a unit: 512k, 64m, 1.5g

error: invalid size for 'shm_size': '-1'
  --> compose.yaml:7:15
   |
 7 |     shm_size: -1
   |               ^^ write a number and a unit: 512k, 64m, 1.5g

error: invalid value for 'cpus': '-2'
  --> compose.yaml:8:11
   |
 8 |     cpus: -2
   |           ^^ write a number of CPUs: 0.5, 2

error: invalid value for 'pids_limit': '1.5'
  --> compose.yaml:9:17
   |
 9 |     pids_limit: 1.5
   |                 ^^^ use a whole number, -1 or more

error: invalid value for 'scale': '-1'
   --> compose.yaml:10:12
    |
 10 |     scale: "-1"
    |            ^^^^ use a whole number from 0 to 10000

error: unknown limit 'nofil'
   --> compose.yaml:11:15
    |
 11 |     ulimits: {nofil: 1, nofile: {soft: 5, hard: 2}}
    |               ^^^^^ did you mean 'nofile'?

error: the soft limit of 'nofile' is above the hard one
   --> compose.yaml:11:25
    |
 11 |     ulimits: {nofil: 1, nofile: {soft: 5, hard: 2}}
    |                         ^^^^^^

error: a memory limit of 1MiB is too small
   --> compose.yaml:12:32
    |
 12 |   small: {image: i, mem_limit: 1m, tty: maybe}
    |                                ^^ give it 6m or more

error: 'tty' is no boolean: 'maybe'
   --> compose.yaml:12:41
    |
 12 |   small: {image: i, mem_limit: 1m, tty: maybe}
    |                                         ^^^^^ use true or false
"#,
    );
}

#[test]
fn two_keys_that_say_different_things() {
    web(
        r#"    mem_limit: 64m
    cpus: 1
    scale: 2
    deploy: {replicas: 3, resources: {limits: {memory: 128m, cpus: "1.0"}}}
    container_name: web
"#,
        r"
error: 'mem_limit' and 'deploy.resources.limits.memory' say different things
  --> compose.yaml:4:5
   |
 4 |     mem_limit: 64m
   |     ^^^^^^^^^ remove one of the two

error: 'scale' and 'deploy.replicas' say different things
  --> compose.yaml:6:5
   |
 6 |     scale: 2
   |     ^^^^^ remove one of the two

error: service 'web' has 3 replicas and a 'container_name', which must be unique
  --> compose.yaml:8:5
   |
 8 |     container_name: web
   |     ^^^^^^^^^^^^^^ remove 'container_name'
",
    );
}

#[test]
fn choices() {
    web(
        r#"    runtime: micorvm
    restart: alwyas
    pull_policy: sometimes
    network_mode: service:db
    security_opt: [no-new-privilege, "seccomp:none.json", "apparmor:x"]
    healthcheck: {test: [pg_isready]}
  other: {image: i, runtime: runc, network_mode: host, networks: [default], restart: "on-failure:x"}
"#,
        r#"
error: unknown runtime 'micorvm'
  --> compose.yaml:4:14
   |
 4 |     runtime: micorvm
   |              ^^^^^^^ did you mean 'microvm'?

error: invalid restart policy 'alwyas'
  --> compose.yaml:5:14
   |
 5 |     restart: alwyas
   |              ^^^^^^ did you mean 'always'?

error: invalid pull policy 'sometimes'
  --> compose.yaml:6:18
   |
 6 |     pull_policy: sometimes
   |                  ^^^^^^^^^ use always, missing, never or build

error: network_mode 'service:db' is not supported
  --> compose.yaml:7:19
   |
 7 |     network_mode: service:db
   |                   ^^^^^^^^^^ use 'none' or 'host', or attach the service with 'networks'

error: unknown security option 'no-new-privilege'
  --> compose.yaml:8:20
   |
 8 |     security_opt: [no-new-privilege, "seccomp:none.json", "apparmor:x"]
   |                    ^^^^^^^^^^^^^^^^ use no-new-privileges, seccomp:unconfined or seccomp:FILE

error: no such seccomp profile: DIR/none.json
  --> compose.yaml:8:38
   |
 8 |     security_opt: [no-new-privilege, "seccomp:none.json", "apparmor:x"]
   |                                      ^^^^^^^^^^^^^^^^^^^

warning: the security option 'apparmor:x' is not supported and is ignored
  --> compose.yaml:8:59
   |
 8 |     security_opt: [no-new-privilege, "seccomp:none.json", "apparmor:x"]
   |                                                           ^^^^^^^^^^^^

error: the test of a health check must begin with CMD, CMD-SHELL or NONE
  --> compose.yaml:9:26
   |
 9 |     healthcheck: {test: [pg_isready]}
   |                          ^^^^^^^^^^ write ["CMD", "program", "argument"], ["CMD-SHELL", "line"] or a string

error: unknown runtime 'runc'
   --> compose.yaml:10:30
    |
 10 |   other: {image: i, runtime: runc, network_mode: host, networks: [default], restart: "on-failure:x"}
    |                              ^^^^ Bulkhead is the runtime itself: use 'container', or remove the key

error: 'network_mode' and 'networks' exclude each other
   --> compose.yaml:10:36
    |
 10 |   other: {image: i, runtime: runc, network_mode: host, networks: [default], restart: "on-failure:x"}
    |                                    ^^^^^^^^^^^^ remove one of the two

error: invalid restart policy 'on-failure:x'
   --> compose.yaml:10:86
    |
 10 |   other: {image: i, runtime: runc, network_mode: host, networks: [default], restart: "on-failure:x"}
    |                                                                                      ^^^^^^^^^^^^^^ did you mean 'on-failure'?
"#,
    );
}

#[test]
fn commands_that_cannot_be_split() {
    web(
        r#"    command: echo 'x
    entrypoint: "x\\"
"#,
        r#"
error: 'command' cannot be split into words: a ' is not closed
  --> compose.yaml:4:14
   |
 4 |     command: echo 'x
   |              ^^^^^^^ write it as a list

error: 'entrypoint' cannot be split into words: it ends with a backslash
  --> compose.yaml:5:17
   |
 5 |     entrypoint: "x\\"
   |                 ^^^^^ write it as a list
"#,
    );
}

#[test]
fn mounts() {
    web(
        r"    volumes:
      - a:b:c:d
      - ./x:/x:rx
      - relative
      - ./y:/x
      - {type: bind, target: /z}
      - {type: npipe, target: /n}
      - {type: tmpfs, target: /t, tmpfs: {mode: 9, size: big}}
    tmpfs: run
",
        r"
error: invalid volume 'a:b:c:d': it has more than three parts
  --> compose.yaml:5:9
   |
 5 |       - a:b:c:d
   |         ^^^^^^^ write [SOURCE:]TARGET[:ro]: ./data:/data, cache:/var/cache:ro

error: invalid volume './x:/x:rx': unknown option 'rx'
  --> compose.yaml:6:9
   |
 6 |       - ./x:/x:rx
   |         ^^^^^^^^^ use ro, rw or nocopy

error: the target of a mount is not absolute: 'relative'
  --> compose.yaml:7:9
   |
 7 |       - relative
   |         ^^^^^^^^ write [SOURCE:]TARGET[:ro]: ./data:/data, cache:/var/cache:ro

error: two mounts have the target '/x'
  --> compose.yaml:8:9
   |
 8 |       - ./y:/x
   |         ^^^^^^

error: a bind mount needs the key 'source'
  --> compose.yaml:9:9
   |
 9 |       - {type: bind, target: /z}
   |         ^

error: mounts of type 'npipe' are not supported
   --> compose.yaml:10:16
    |
 10 |       - {type: npipe, target: /n}
    |                ^^^^^ use bind, volume or tmpfs

error: invalid size for 'size': 'big'
   --> compose.yaml:11:58
    |
 11 |       - {type: tmpfs, target: /t, tmpfs: {mode: 9, size: big}}
    |                                                          ^^^ write a number and a unit: 512k, 64m, 1.5g

error: the target of a tmpfs is not absolute: 'run'
   --> compose.yaml:12:12
    |
 12 |     tmpfs: run
    |            ^^^ write /TARGET[:OPTIONS]: /tmp, /run:size=64m
",
    );
}

#[test]
fn addresses() {
    web(
        r#"    dns: [dns.example]
    extra_hosts: ["a", "b=nowhere"]
    networks: {default: {ipv4_address: 10.0.0}}
networks:
  default: {driver: overlay, ipam: {config: [{subnet: 10.0.0.1/24, gateway: 10.1.0.1}]}}
  x: {ipam: {config: [{subnet: 10.0.0.0}]}}
volumes: {v: {driver: nfs}}
"#,
        r#"
error: 'dns.example' is no IPv4 address of a DNS server
  --> compose.yaml:4:11
   |
 4 |     dns: [dns.example]
   |           ^^^^^^^^^^^

error: invalid extra host 'a'
  --> compose.yaml:5:19
   |
 5 |     extra_hosts: ["a", "b=nowhere"]
   |                   ^^^ write NAME=ADDRESS or NAME=host-gateway

error: invalid extra host 'b=nowhere'
  --> compose.yaml:5:24
   |
 5 |     extra_hosts: ["a", "b=nowhere"]
   |                        ^^^^^^^^^^^ write NAME=ADDRESS or NAME=host-gateway

error: invalid IPv4 address '10.0.0'
  --> compose.yaml:6:40
   |
 6 |     networks: {default: {ipv4_address: 10.0.0}}
   |                                        ^^^^^^

error: the network driver 'overlay' is not supported
  --> compose.yaml:8:21
   |
 8 |   default: {driver: overlay, ipam: {config: [{subnet: 10.0.0.1/24, gateway: 10.1.0.1}]}}
   |                     ^^^^^^^ use 'bridge'

error: the subnet '10.0.0.1/24' has host bits set
  --> compose.yaml:8:55
   |
 8 |   default: {driver: overlay, ipam: {config: [{subnet: 10.0.0.1/24, gateway: 10.1.0.1}]}}
   |                                                       ^^^^^^^^^^^ write 10.0.0.0/24

error: the gateway '10.1.0.1' is no address in 10.0.0.0/24
  --> compose.yaml:8:77
   |
 8 |   default: {driver: overlay, ipam: {config: [{subnet: 10.0.0.1/24, gateway: 10.1.0.1}]}}
   |                                                                             ^^^^^^^^

error: invalid subnet '10.0.0.0'
  --> compose.yaml:9:32
   |
 9 |   x: {ipam: {config: [{subnet: 10.0.0.0}]}}
   |                                ^^^^^^^^ write an IPv4 network: 172.28.0.0/16

error: the volume driver 'nfs' is not supported
   --> compose.yaml:10:23
    |
 10 | volumes: {v: {driver: nfs}}
    |                       ^^^ use 'local'
"#,
    );
}

#[test]
fn what_is_not_there() {
    web(
        r#"    build: {context: ./none}
    env_file: [none.env]
    working_dir: relative
  b: {build: "https://example.com/x.git"}
  c: {build: compose.yaml}
secrets: {s: {file: none.txt}, t: {environment: NONE}, u: {external: true}, v: {}}
"#,
        r#"
error: the build context does not exist: DIR/none
  --> compose.yaml:4:22
   |
 4 |     build: {context: ./none}
   |                      ^^^^^^

error: cannot read the env_file DIR/none.env: No such file or directory (os error 2)
  --> compose.yaml:5:16
   |
 5 |     env_file: [none.env]
   |                ^^^^^^^^ make it, or say 'required: false'

error: 'working_dir' is not absolute: 'relative'
  --> compose.yaml:6:18
   |
 6 |     working_dir: relative
   |                  ^^^^^^^^

error: a build context at an address is not supported: 'https://example.com/x.git'
  --> compose.yaml:7:14
   |
 7 |   b: {build: "https://example.com/x.git"}
   |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^ fetch it and name the directory

error: the build context is no directory: DIR/compose.yaml
  --> compose.yaml:8:14
   |
 8 |   c: {build: compose.yaml}
   |              ^^^^^^^^^^^^

error: no such file for the secret: DIR/none.txt
  --> compose.yaml:9:21
   |
 9 | secrets: {s: {file: none.txt}, t: {environment: NONE}, u: {external: true}, v: {}}
   |                     ^^^^^^^^

error: the secret needs the variable 'NONE', which is not set
  --> compose.yaml:9:49
   |
 9 | secrets: {s: {file: none.txt}, t: {environment: NONE}, u: {external: true}, v: {}}
   |                                                 ^^^^ set it in the environment or in .env: NONE=…

error: the secret 'u' is external, which is not supported
  --> compose.yaml:9:56
   |
 9 | secrets: {s: {file: none.txt}, t: {environment: NONE}, u: {external: true}, v: {}}
   |                                                        ^ give it a 'file'

error: the secret 'v' has no content
  --> compose.yaml:9:77
   |
 9 | secrets: {s: {file: none.txt}, t: {environment: NONE}, u: {external: true}, v: {}}
   |                                                                             ^ give it a 'file' or an 'environment' variable
"#,
    );
}

#[test]
fn variables() {
    web(
        r#"    hostname: ${HOST
    command: echo $
    user: ${USER_ID:?set the user}
    working_dir: "/${NONE}/${NONE2:+x}"
    labels:
      text: |
        one
        two ${2}
"#,
        r#"
error: '${' without a closing '}'
  --> compose.yaml:4:15
   |
 4 |     hostname: ${HOST
   |               ^^^^^^ write '$$' for a dollar sign

error: invalid variable '$'
  --> compose.yaml:5:19
   |
 5 |     command: echo $
   |                   ^ write '$$' for a dollar sign

error: required variable 'USER_ID' is not set: set the user
  --> compose.yaml:6:11
   |
 6 |     user: ${USER_ID:?set the user}
   |           ^^^^^^^^^^^^^^^^^^^^^^^^ set it in the environment or in .env: USER_ID=…

warning: variable 'NONE' is not set
  --> compose.yaml:7:20
   |
 7 |     working_dir: "/${NONE}/${NONE2:+x}"
   |                    ^^^^^^ it is taken as empty; give a default: ${NONE:-…}

error: invalid variable '${2}'
   --> compose.yaml:11:13
    |
 11 |         two ${2}
    |             ^^^^ a name has letters, digits and '_', and '$$' is a dollar sign
"#,
    );
}

#[test]
fn the_size_of_a_root() {
    web(
        r#"    runtime: microvm
    storage_opt: {size: lots, siz: 1G}
  api: {image: i, storage_opt: {size: 1G}}
  fine: {image: i, runtime: microvm, storage_opt: {size: 1G}}
"#,
        r#"
error: invalid size for 'size': 'lots'
  --> compose.yaml:5:25
   |
 5 |     storage_opt: {size: lots, siz: 1G}
   |                         ^^^^ write a number and a unit: 512k, 64m, 1.5g

error: unknown storage option 'siz'
  --> compose.yaml:5:31
   |
 5 |     storage_opt: {size: lots, siz: 1G}
   |                               ^^^ 'size' is the only one

error: a container's root has no size limit: 'size' is of a micro VM's disk
  --> compose.yaml:6:33
   |
 6 |   api: {image: i, storage_opt: {size: 1G}}
   |                                 ^^^^ add 'runtime: microvm', or use 'read_only: true' with 'tmpfs: /PATH:size=SIZE'
"#,
    );
}
