//! What a user reads about keys, types and YAML that are wrong: the exact text.

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
fn a_misspelt_key_at_every_level() {
    web(
        r"    comand: true
    build: {contxt: .}
    healthcheck: {intervall: 1s}
    deploy: {resources: {limits: {memroy: 1g}}}
    ports: [{traget: 80}]
    depends_on: {web2: {conditon: x, condition: service_started}}
  web2: {image: i, labls: {}}
volums: {}
networks: {default: {ipam: {confg: []}}}
",
        r"
error: unknown key 'comand' in service 'web'
  --> compose.yaml:4:5
   |
 4 |     comand: true
   |     ^^^^^^ did you mean 'command'?

error: unknown key 'contxt' in 'build' of service 'web'
  --> compose.yaml:5:13
   |
 5 |     build: {contxt: .}
   |             ^^^^^^ did you mean 'context'?

error: unknown key 'intervall' in 'healthcheck' of service 'web'
  --> compose.yaml:6:19
   |
 6 |     healthcheck: {intervall: 1s}
   |                   ^^^^^^^^^ did you mean 'interval'?

error: unknown key 'memroy' in 'deploy.resources.limits' of service 'web'
  --> compose.yaml:7:35
   |
 7 |     deploy: {resources: {limits: {memroy: 1g}}}
   |                                   ^^^^^^ did you mean 'memory'?

error: a port needs the key 'target'
  --> compose.yaml:8:13
   |
 8 |     ports: [{traget: 80}]
   |             ^

error: unknown key 'traget' in 'ports[0]' of service 'web'
  --> compose.yaml:8:14
   |
 8 |     ports: [{traget: 80}]
   |              ^^^^^^ did you mean 'target'?

error: unknown key 'conditon' in 'depends_on.web2' of service 'web'
  --> compose.yaml:9:25
   |
 9 |     depends_on: {web2: {conditon: x, condition: service_started}}
   |                         ^^^^^^^^ did you mean 'condition'?

error: unknown key 'labls' in service 'web2'
   --> compose.yaml:10:20
    |
 10 |   web2: {image: i, labls: {}}
    |                    ^^^^^ did you mean 'labels'?

error: unknown key 'volums' at the top level
   --> compose.yaml:11:1
    |
 11 | volums: {}
    | ^^^^^^ did you mean 'volumes'?

error: unknown key 'confg' in 'ipam' of network 'default'
   --> compose.yaml:12:29
    |
 12 | networks: {default: {ipam: {confg: []}}}
    |                             ^^^^^ did you mean 'config'?
",
    );
}

#[test]
fn a_key_that_is_like_no_other() {
    web(
        r"    zebra: 1
    logging: {zebra: 1}
zebra: 1
",
        r"
error: unknown key 'zebra' in service 'web'
  --> compose.yaml:4:5
   |
 4 |     zebra: 1
   |     ^^^^^

warning: 'logging' in service 'web' is not supported and is ignored
  --> compose.yaml:5:5
   |
 5 |     logging: {zebra: 1}
   |     ^^^^^^^ logs are kept by Bulkhead; see 'bulkhead logs'

error: unknown key 'zebra' in 'logging' of service 'web'
  --> compose.yaml:5:15
   |
 5 |     logging: {zebra: 1}
   |               ^^^^^

error: unknown key 'zebra' at the top level
  --> compose.yaml:6:1
   |
 6 | zebra: 1
   | ^^^^^
",
    );
}

#[test]
fn wrong_types() {
    file(
        r"name: [a]
services:
  a:
  b: text
  c:
    image: 1.5
    user: 1000
    command: [sleep, 10]
    environment: text
    ports: 80:80
    tty: [x]
    depends_on: {d: null}
    deploy: {replicas: {}}
    healthcheck: []
    ulimits: {nofile: [1]}
    labels:
  d: {image: i}
version: 3
",
        r#"
error: 'name' must be a string, not a list
  --> compose.yaml:1:7
   |
 1 | name: [a]
   |       ^

error: service 'a' must be a mapping, not nothing
  --> compose.yaml:3:4
   |
 3 |   a:
   |    ^ give it a value or remove the key

error: service 'b' must be a mapping, not a string
  --> compose.yaml:4:6
   |
 4 |   b: text
   |      ^^^^

error: 'image' of service 'c' must be a string, not a number
  --> compose.yaml:6:12
   |
 6 |     image: 1.5
   |            ^^^ put it in quotes: "1.5"

error: 'user' of service 'c' must be a string, not an integer
  --> compose.yaml:7:11
   |
 7 |     user: 1000
   |           ^^^^ put it in quotes: "1000"

error: 'command[1]' of service 'c' must be a string, not an integer
  --> compose.yaml:8:22
   |
 8 |     command: [sleep, 10]
   |                      ^^ put it in quotes: "10"

error: 'environment' of service 'c' must be a mapping or a list, not a string
  --> compose.yaml:9:18
   |
 9 |     environment: text
   |                  ^^^^

error: 'ports' of service 'c' must be a list, not a string
   --> compose.yaml:10:12
    |
 10 |     ports: 80:80
    |            ^^^^^

error: 'tty' of service 'c' must be a boolean or a string, not a list
   --> compose.yaml:11:10
    |
 11 |     tty: [x]
    |          ^

error: 'depends_on.d' of service 'c' must be a mapping, not nothing
   --> compose.yaml:12:21
    |
 12 |     depends_on: {d: null}
    |                     ^^^^ give it a value or remove the key

error: 'deploy.replicas' of service 'c' must be an integer or a string, not a mapping
   --> compose.yaml:13:24
    |
 13 |     deploy: {replicas: {}}
    |                        ^

error: 'healthcheck' of service 'c' must be a mapping, not a list
   --> compose.yaml:14:18
    |
 14 |     healthcheck: []
    |                  ^

error: 'ulimits.nofile' of service 'c' must be an integer, a string or a mapping, not a list
   --> compose.yaml:15:23
    |
 15 |     ulimits: {nofile: [1]}
    |                       ^

error: 'labels' of service 'c' must be a mapping or a list, not nothing
   --> compose.yaml:16:11
    |
 16 |     labels:
    |           ^ give it a value or remove the key

warning: 'version' is obsolete and is ignored
   --> compose.yaml:18:1
    |
 18 | version: 3
    | ^^^^^^^ remove it

error: 'version' must be a string, not an integer
   --> compose.yaml:18:10
    |
 18 | version: 3
    |          ^ put it in quotes: "3"
"#,
    );
}

#[test]
fn services_must_be_a_mapping() {
    file(
        r"- a
- b
",
        r"
error: the file must be a mapping, not a list
  --> compose.yaml:1:1
   |
 1 | - a
   | ^
",
    );
}

#[test]
fn required_keys_and_enumerations() {
    web(
        r"    depends_on: {db: {restart: true}}
    volumes: [{target: /x}, {type: bnd, target: /y}]
  db: {image: i, depends_on: {web3: {condition: service_helthy}}}
  web3: {image: i, oom_score_adj: 2000}
",
        r"
error: 'depends_on.db' of service 'web' needs the key 'condition'
  --> compose.yaml:4:22
   |
 4 |     depends_on: {db: {restart: true}}
   |                      ^

error: 'volumes[0]' of service 'web' needs the key 'type'
  --> compose.yaml:5:15
   |
 5 |     volumes: [{target: /x}, {type: bnd, target: /y}]
   |               ^

error: invalid value 'bnd' for 'volumes[1].type' of service 'web'
  --> compose.yaml:5:36
   |
 5 |     volumes: [{target: /x}, {type: bnd, target: /y}]
   |                                    ^^^ did you mean 'bind'?

error: invalid value 'service_helthy' for 'depends_on.web3.condition' of service 'db'
  --> compose.yaml:6:49
   |
 6 |   db: {image: i, depends_on: {web3: {condition: service_helthy}}}
   |                                                 ^^^^^^^^^^^^^^ did you mean 'service_healthy'?

error: 'oom_score_adj' of service 'web3' is out of range: 2000
  --> compose.yaml:7:35
   |
 7 |   web3: {image: i, oom_score_adj: 2000}
   |                                   ^^^^ use -1000 to 1000
",
    );
}

#[test]
fn invalid_names() {
    file(
        r#"services:
  "a b": {image: i}
  ok: {image: i, container_name: "-x", hostname: "a_b..c"}
networks: {n: {name: "x/y"}}
"#,
        r#"
error: invalid name 'a b' in 'services'
  --> compose.yaml:2:3
   |
 2 |   "a b": {image: i}
   |   ^^^^^ use letters, digits, '.', '_' and '-'

error: invalid container name '-x'
  --> compose.yaml:3:34
   |
 3 |   ok: {image: i, container_name: "-x", hostname: "a_b..c"}
   |                                  ^^^^ use two or more letters, digits, '_', '.' and '-'; begin with a letter or digit

error: invalid host name 'a_b..c'
  --> compose.yaml:3:50
   |
 3 |   ok: {image: i, container_name: "-x", hostname: "a_b..c"}
   |                                                  ^^^^^^^^ use letters, digits and '-', at most 63 between dots

error: invalid name 'x/y'
  --> compose.yaml:4:22
   |
 4 | networks: {n: {name: "x/y"}}
   |                      ^^^^^ use letters, digits, '_', '.' and '-'; begin with a letter or a digit
"#,
    );
}

#[test]
fn repeated_items() {
    web(
        r"    cap_add: [SYS_TIME, NET_ADMIN, SYS_TIME]
    expose: [80, 80]
",
        r"
error: 'cap_add[2]' of service 'web' repeats 'SYS_TIME'
  --> compose.yaml:4:36
   |
 4 |     cap_add: [SYS_TIME, NET_ADMIN, SYS_TIME]
   |                                    ^^^^^^^^ remove one of the two

error: 'expose[1]' of service 'web' repeats '80'
  --> compose.yaml:5:18
   |
 5 |     expose: [80, 80]
   |                  ^^ remove one of the two
",
    );
}

#[test]
fn duplicate_keys() {
    web(
        r"    image: j
    labels: {a: 1, a: 2}
",
        r"
error: duplicate key 'image'
  --> compose.yaml:4:5
   |
 4 |     image: j
   |     ^^^^^ it is already defined in line 3

error: duplicate key 'a'
  --> compose.yaml:5:20
   |
 5 |     labels: {a: 1, a: 2}
   |                    ^ it is already defined in line 5
",
    );
}

#[test]
fn neither_image_nor_build() {
    file(
        r"services:
  web:
    command: x
",
        r"
error: service 'web' has neither 'image' nor 'build'
  --> compose.yaml:2:3
   |
 2 |   web:
   |   ^^^ give it one of the two
",
    );
}

#[test]
fn what_would_change_the_meaning() {
    web(
        r"include: [other.yaml]
",
        r"
error: 'include' is not supported
  --> compose.yaml:4:1
   |
 4 | include: [other.yaml]
   | ^^^^^^^ pass the files with -f
",
    );
}

#[test]
fn keys_that_are_ignored() {
    web(
        r#"    links: [db]
    logging: {driver: none}
    deploy: {placement: {constraints: [x]}, update_config: {parallelism: 2}}
    blkio_config: {weight: 5}
    platform: linux/arm64
    x-own: {any: thing}
  db: {image: i, group_add: [1]}
version: "2"
"#,
        r#"
warning: 'links' in service 'web' is not supported and is ignored
  --> compose.yaml:4:5
   |
 4 |     links: [db]
   |     ^^^^^ services reach each other by name without it

warning: 'logging' in service 'web' is not supported and is ignored
  --> compose.yaml:5:5
   |
 5 |     logging: {driver: none}
   |     ^^^^^^^ logs are kept by Bulkhead; see 'bulkhead logs'

warning: 'placement' in 'deploy' of service 'web' is not supported and is ignored
  --> compose.yaml:6:14
   |
 6 |     deploy: {placement: {constraints: [x]}, update_config: {parallelism: 2}}
   |              ^^^^^^^^^

warning: 'update_config' in 'deploy' of service 'web' is not supported and is ignored
  --> compose.yaml:6:45
   |
 6 |     deploy: {placement: {constraints: [x]}, update_config: {parallelism: 2}}
   |                                             ^^^^^^^^^^^^^

warning: 'blkio_config' in service 'web' is not supported and is ignored
  --> compose.yaml:7:5
   |
 7 |     blkio_config: {weight: 5}
   |     ^^^^^^^^^^^^

warning: 'platform' in service 'web' is not supported and is ignored
  --> compose.yaml:8:5
   |
 8 |     platform: linux/arm64
   |     ^^^^^^^^ images are built and run for this machine's platform

warning: 'group_add' in service 'db' is not supported and is ignored
   --> compose.yaml:10:18
    |
 10 |   db: {image: i, group_add: [1]}
    |                  ^^^^^^^^^

warning: 'version' is obsolete and is ignored
   --> compose.yaml:11:1
    |
 11 | version: "2"
    | ^^^^^^^ remove it
"#,
    );
}

#[test]
fn yaml_that_is_broken() {
    file(
        r"services:
  web: [a, b
  db: {}
",
        r"
error: not valid YAML: illegal placement of ':' indicator
  --> compose.yaml:3:5
   |
 3 |   db: {}
   |     ^
",
    );
}

#[test]
fn a_tab() {
    file(
        r"services:
	web: {image: i}
",
        r"
error: not valid YAML: a tab in the indentation
  --> compose.yaml:2:1
   |
 2 | 	web: {image: i}
   | ^ indent with spaces
",
    );
}

#[test]
fn an_unclosed_quote() {
    file(
        r#"services:
  web: {image: "i}
"#,
        r#"
error: not valid YAML: while scanning a quoted scalar, found unexpected end of stream
  --> compose.yaml:2:16
   |
 2 |   web: {image: "i}
   |                ^
"#,
    );
}

#[test]
fn two_documents() {
    file(
        r"services: {}
---
services: {}
",
        r"
error: more than one YAML document in the file
  --> compose.yaml:2:1
   |
 2 | ---
   | ^^^ split it into files and pass each with -f
",
    );
}

#[test]
fn an_unknown_alias() {
    file(
        r"services: {a: *nobody}
",
        r"
error: not valid YAML: while parsing node, found unknown anchor
  --> compose.yaml:1:15
   |
 1 | services: {a: *nobody}
   |               ^
",
    );
}

#[test]
fn an_unknown_tag() {
    file(
        r"services: {a: !include x}
",
        r"
error: unknown YAML tag '!include'
  --> compose.yaml:1:15
   |
 1 | services: {a: !include x}
   |               ^^^^^^^^^^ Compose knows !reset and !override
",
    );
}

#[test]
fn merge_key_of_nothing() {
    file(
        r"services: {a: {<<: text, image: i}}
",
        r"
error: '<<' takes a mapping or a list of mappings
  --> compose.yaml:1:20
   |
 1 | services: {a: {<<: text, image: i}}
   |                    ^^^^
",
    );
}

#[test]
fn an_empty_file() {
    file(
        r"# nothing
",
        r"
error: the file is empty
  --> compose.yaml
  = help: begin with 'services:'
",
    );
}

#[test]
fn wide_characters_before_the_error() {
    web(
        r#"    labels: {"größe 日本語 🚀": "x", a: [ü]}
"#,
        r#"
error: 'labels.a' of service 'web' must be a string, a number or a boolean, not a list
  --> compose.yaml:4:37
   |
 4 |     labels: {"größe 日本語 🚀": "x", a: [ü]}
   |                                         ^
"#,
    );
}
