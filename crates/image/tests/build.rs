//! The builder, with commands that really run in an overlay of their own.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use bulkhead_image::build::BuildEvent;
use bulkhead_image::config::Healthcheck;
use bulkhead_model::ErrorKind;
use support::project::Project;

macro_rules! project {
    () => {
        match Project::new() {
            Some(project) => project,
            None => return,
        }
    };
}

#[test]
fn a_build_runs_copies_and_configures() {
    let project = project!();
    project
        .file("app/main.sh", "echo hello")
        .mode("app/main.sh", 0o755);
    let built = project.build(
        r#"# escape=\
FROM busybox AS base
ARG VERSION=1
ENV NAME=shop \
    # a comment between
    GREETING="hello $VERSION"
LABEL org.example.name="the shop" other=${NAME}
WORKDIR /srv
WORKDIR app
COPY app/main.sh ./
RUN echo "$GREETING" >greeting && id -u && echo err >&2
USER web:ssl
EXPOSE 8080 53/udp
VOLUME ["/data", "/more data"]
HEALTHCHECK --interval=1m30s --retries=2 CMD ./main.sh
STOPSIGNAL SIGINT
ENTRYPOINT ["./main.sh"]
CMD serve --fast
ONBUILD RUN echo child
"#,
    );
    let id = built.id();
    assert_eq!(built.output(), ["0", "err"]);
    let image = project.store.resolve("built").unwrap();
    assert_eq!(image.id, id);
    let config = &image.config.config;
    assert!(
        config.env.contains(&"GREETING=hello 1".to_owned()),
        "{:?}",
        config.env
    );
    assert!(config.env.iter().any(|entry| entry.starts_with("PATH=")));
    assert!(!config.env.iter().any(|entry| entry.starts_with("VERSION=")));
    assert_eq!(config.labels["other"], "shop");
    assert_eq!(config.labels["org.example.name"], "the shop");
    assert_eq!(config.working_dir, "/srv/app");
    assert_eq!(config.user, "web:ssl");
    assert_eq!(
        config.exposed_ports.keys().collect::<Vec<_>>(),
        ["53/udp", "8080/tcp"]
    );
    assert_eq!(
        config.volumes.keys().collect::<Vec<_>>(),
        ["/data", "/more data"]
    );
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(config.entrypoint, Some(vec!["./main.sh".to_owned()]));
    let cmd = ["/bin/sh", "-c", "serve --fast"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(config.cmd, Some(cmd));
    assert_eq!(config.on_build, ["RUN echo child"]);
    assert_eq!(
        config.healthcheck,
        Some(Healthcheck {
            test: vec!["CMD-SHELL".to_owned(), "./main.sh".to_owned()],
            interval: 90_000_000_000,
            retries: 2,
            ..Healthcheck::default()
        })
    );
    assert_eq!(project.text("srv/app/greeting"), "hello 1\n");
    let main = fs::metadata(project.path("built", "srv/app/main.sh").unwrap()).unwrap();
    assert_eq!((main.mode() & 0o7777, main.uid()), (0o755, 0));
    // What was made only to mount over it is no part of the image.
    assert!(project.path("built", "etc/resolv.conf").is_none());
    assert!(!support::is_mounted(project.directory.path()));
    let entered = project.build("FROM built\nENTRYPOINT [\"x\"]\n");
    assert_eq!(entered.output(), ["child"]);
    let config = project
        .store
        .resolve(&entered.id().to_string())
        .unwrap()
        .config
        .config;
    assert_eq!(config.cmd, None, "an ENTRYPOINT takes the base's CMD away");
    project.store.tag(&id.to_string(), "built").unwrap();
    // A build on top carries out ONBUILD and does not pass it on.
    let child = project.build("FROM built\n");
    assert_eq!(child.cached(), 1, "the trigger ran in the build before");
    assert!(
        project
            .store
            .resolve("built")
            .unwrap()
            .config
            .config
            .on_build
            .is_empty()
    );
}

#[test]
fn an_unchanged_build_is_the_same_image_from_the_cache() {
    let project = project!();
    project.file("data/a", "1").file("data/b/c", "2");
    let dockerfile = "FROM busybox\nENV A=1\nCOPY data /data\nRUN echo x >/x\nCMD [\"x\"]\n";
    let first = project.build(dockerfile);
    assert_eq!(first.cached(), 0);
    let again = project.build(dockerfile);
    assert_eq!((again.id(), again.cached()), (first.id(), 4));
    // Another time of the file changes nothing; its content, its mode and its name do.
    let touched = fs::File::options()
        .append(true)
        .open(project.options.context.join("data/a"))
        .unwrap();
    touched.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(project.build(dockerfile).id(), first.id());
    project.file("data/a", "3");
    let changed = project.build(dockerfile);
    assert_eq!(changed.cached(), 1);
    assert_eq!(project.text("data/a"), "3");
    project.mode("data/a", 0o600);
    assert_eq!(project.build(dockerfile).cached(), 1);
    fs::rename(
        project.options.context.join("data/a"),
        project.options.context.join("data/z"),
    )
    .unwrap();
    assert_eq!(project.build(dockerfile).cached(), 1);
    // Back to what it was, it is in the cache.
    fs::rename(
        project.options.context.join("data/z"),
        project.options.context.join("data/a"),
    )
    .unwrap();
    project.file("data/a", "1").mode("data/a", 0o644);
    assert_eq!(project.build(dockerfile).cached(), 4);
    let mut options = project.options.clone();
    options.no_cache = true;
    assert_eq!(project.build_with(&options).cached(), 0);
    // A changed ENV changes what comes after it, also if a layer is the same.
    assert_eq!(project.build(&dockerfile.replace("A=1", "A=2")).cached(), 0);
    // A cache whose layer is gone is none.
    project.store.remove("built", false, &|_| false).unwrap();
    project.store.prune(false, true, &|_| false).unwrap();
    assert_eq!(project.build(dockerfile).cached(), 0);
    assert_eq!(project.text("x"), "x\n");
}

#[test]
fn build_arguments_count_where_they_are_used() {
    let mut project = project!();
    let dockerfile = "ARG BASE=none\nFROM ${BASE}\nRUN echo first\nARG V\nRUN echo \"v=$V\"\nFROM scratch\nCOPY --from=0 /etc/passwd /\n";
    project.options.target = Some("0".to_owned());
    project.options.build_args = vec![("BASE".into(), "busybox".into()), ("V".into(), "1".into())];
    let first = project.build(dockerfile);
    first.id();
    assert_eq!(first.output(), ["first", "v=1"]);
    assert_eq!(first.started(), 4, "the second stage is not needed");
    project.options.build_args[1].1 = "2".into();
    let second = project.build(dockerfile);
    assert_eq!((second.cached(), second.output()), (1, vec!["v=2"]));
    project
        .options
        .build_args
        .push(("UNUSED".into(), "x".into()));
    let warned = project.build(dockerfile);
    assert!(
        warned
            .events
            .iter()
            .any(|event| matches!(event, BuildEvent::Warning { text } if text.contains("UNUSED")))
    );
    project.options.build_args.clear();
    let error = project.build(dockerfile).error();
    assert!(
        error.contains("no image 'none'") && error.contains("Dockerfile:2:6"),
        "{error}"
    );
}

#[test]
fn a_base_image_s_trigger_fails_at_its_from() {
    let project = project!();
    project
        .build("FROM busybox\nONBUILD COPY missing /x\n")
        .id();
    let error = project.build("# a comment\nFROM built\n").error();
    assert!(
        error.contains("ONBUILD of the base image: there is no 'missing'"),
        "{error}"
    );
    assert!(error.contains("--> Dockerfile:2:1"), "{error}");
}

#[test]
fn a_dockerfile_from_outside_the_context_is_not_copied() {
    use bulkhead_image::context::{context_tar, unpack_context};
    let project = project!();
    project.file("a", "1");
    let outside = project.directory.path().join("Dockerfile");
    fs::write(&outside, "FROM busybox\nCOPY . /c/\n").unwrap();
    let mut archive = Vec::new();
    let name = context_tar(&project.options.context, &outside, &mut archive).unwrap();
    let mut options = project.options.clone();
    options.context = project.directory.path().join("arrived");
    fs::create_dir(&options.context).unwrap();
    unpack_context(&archive[..], &options.context).unwrap();
    options.dockerfile = options.context.join(name);
    project.build_with(&options).id();
    let copied = project.path("built", "c").unwrap();
    assert_eq!(fs::read_dir(copied).unwrap().count(), 1);
}

#[test]
fn stages_copy_from_each_other() {
    let mut project = project!();
    project.options.labels = vec![("built.by".into(), "test".into())];
    project.options.tags = vec!["built".into(), "shop/app:2".into()];
    let dockerfile = "FROM busybox AS Build\nRUN mkdir /out && echo bin >/out/app && chmod 750 /out/app && mkdir /out/sub && echo x >/out/sub/x\n\
        FROM busybox AS unused\nRUN exit 9\n\
        FROM build AS more\nRUN echo more >>/out/app\n\
        FROM scratch\nCOPY --from=build /out /a/\nCOPY --from=more --chown=7:8 /out/app /b\nCOPY --from=busybox /etc/pass* /etc/\nCMD [\"/a/app\"]\n";
    let built = project.build(dockerfile);
    built.id();
    assert_eq!(built.output(), Vec::<&str>::new());
    assert_eq!(project.text("a/app"), "bin\n");
    assert_eq!(project.text("a/sub/x"), "x\n");
    assert_eq!(project.text("b"), "bin\nmore\n");
    assert!(project.text("etc/passwd").contains("web"));
    let b = fs::metadata(project.path("built", "b").unwrap()).unwrap();
    assert_eq!((b.uid(), b.gid(), b.mode() & 0o777), (7, 8, 0o750));
    let image = project.store.resolve("shop/app:2").unwrap();
    assert_eq!(image.references.len(), 2);
    assert_eq!(image.config.config.labels["built.by"], "test");
    assert_eq!(image.layers.len(), 3);
    let again = project.build(dockerfile);
    assert_eq!(
        (again.cached(), again.id()),
        (again.started() - 3, image.id)
    );
    // The first stage changes, but not what is copied: the copies are in the cache.
    let other = dockerfile.replace("mkdir /out &&", "mkdir  /out && true &&");
    let other = project.build(&other);
    assert_eq!(other.id(), image.id);
    project.options.target = Some("nothing".into());
    let error = project.build(dockerfile).error();
    assert!(
        error.contains("no stage 'nothing'") && error.contains("unused"),
        "{error}"
    );
}

#[test]
fn copy_has_dockers_semantics() {
    let project = project!();
    project
        .file("one", "1")
        .file("two", "2")
        .file("dir/a", "a")
        .file("dir/sub/b", "b")
        .file("odd name", "o");
    symlink("a", project.options.context.join("dir/link")).unwrap();
    symlink("dir", project.options.context.join("dirlink")).unwrap();
    symlink(
        "../../../etc/passwd",
        project.options.context.join("escape"),
    )
    .unwrap();
    // Instruction, and the files that it makes (by absolute path).
    let table: &[(&str, &[(&str, &str)])] = &[
        ("COPY one /new", &[("new", "1")]),
        ("COPY one /newdir/", &[("newdir/one", "1")]),
        ("COPY one /tmp", &[("tmp/one", "1")]),
        ("COPY one /x/y/z", &[("x/y/z", "1")]),
        ("COPY one two /d/", &[("d/one", "1"), ("d/two", "2")]),
        ("COPY one two .", &[("one", "1"), ("two", "2")]),
        ("COPY dir /d", &[("d/a", "a"), ("d/sub/b", "b")]),
        ("COPY dir /d/", &[("d/a", "a"), ("d/sub/b", "b")]),
        ("COPY dir/ /tmp/", &[("tmp/a", "a")]),
        ("COPY . /all", &[("all/one", "1"), ("all/dir/sub/b", "b")]),
        ("COPY dir/* /g/", &[("g/a", "a"), ("g/b", "b")]),
        ("COPY [a-z]ne t?o /g/", &[("g/one", "1"), ("g/two", "2")]),
        ("COPY one missing* /g/", &[("g/one", "1")]),
        (
            "COPY [\"odd name\", \"/with space\"]",
            &[("with space", "o")],
        ),
        ("COPY one /lib/one", &[("usr/lib/one", "1")]),
        ("COPY dirlink /d", &[("d/a", "a")]),
        ("COPY dir/link /target", &[("target", "a")]),
        ("COPY --exclude=sub dir /d", &[("d/a", "a")]),
        ("ENV D=/deep\nCOPY one ${D}/er", &[("deep/er", "1")]),
        (
            "WORKDIR /w\nCOPY one two ./",
            &[("w/one", "1"), ("w/two", "2")],
        ),
        (
            "COPY <<A <<\"B\" /docs/\nhi $PATH_X\nA\nraw $X\nB",
            &[("docs/A", "hi \n"), ("docs/B", "raw $X\n")],
        ),
    ];
    for (instruction, files) in table {
        let outcome = project.build(&format!("FROM busybox\n{instruction}\n"));
        if let Err(error) = &outcome.result {
            panic!("{instruction}: {error}");
        }
        for (path, content) in *files {
            assert_eq!(project.text(path), *content, "{instruction}: {path}");
        }
    }
    project
        .build("FROM busybox\nCOPY --exclude=sub dir /d\n")
        .id();
    assert!(project.path("built", "d/sub").is_none());
    project
        .build("FROM busybox\nCOPY one /tmp/\nCOPY dir /tmp\n")
        .id();
    let tmp = fs::metadata(project.path("built", "tmp").unwrap()).unwrap();
    assert_eq!(
        tmp.mode() & 0o7777,
        0o1777,
        "an existing directory keeps its mode"
    );
    assert!(project.path("built", "lib").unwrap().is_symlink());
    let link = project.path("built", "tmp/link").unwrap();
    assert_eq!(fs::read_link(link).unwrap().to_str(), Some("a"));
    for (flags, expected) in [
        ("--chown=web", (33, 33, 0o644)),
        ("--chown=web:ssl", (33, 55, 0o644)),
        ("--chown=1000:1001 --chmod=4711", (1000, 1001, 0o4711)),
    ] {
        project.mode("one", 0o644);
        project
            .build(&format!("FROM busybox\nCOPY {flags} one /made/one\n"))
            .id();
        let one = fs::metadata(project.path("built", "made/one").unwrap()).unwrap();
        assert_eq!(
            (one.uid(), one.gid(), one.mode() & 0o7777),
            expected,
            "{flags}"
        );
        let made = fs::metadata(project.path("built", "made").unwrap()).unwrap();
        assert_eq!(
            made.uid(),
            expected.0,
            "directories that are made have the owner too"
        );
    }
    for (instruction, part) in [
        ("COPY nothing /x", "there is no 'nothing'"),
        ("COPY missing* /x", "no file fits"),
        ("COPY one two /x", "write it as '/x/'"),
        ("COPY o* t* /x", "write it as '/x/'"),
        ("COPY *e /etc/passwd/x/", "not a directory"),
        ("COPY ../one /x", "leads outside"),
        ("COPY escape /x", "there is no 'escape'"),
        ("COPY --chown=nobody2 one /x", "nobody2"),
        ("COPY --chmod=u+x one /x", "octal"),
        ("COPY --form=x one /x", "did you mean 'from'?"),
        ("COPY --from=nothing one /x", "no image 'nothing'"),
        ("COPY one", "needs a source and a destination"),
        ("COPY dir /etc/passwd", "not a directory"),
        ("ADD https://example.org/x /x", "not supported"),
    ] {
        let outcome = project.build(&format!("FROM busybox\n{instruction}\n"));
        let error = outcome.error();
        assert!(error.contains(part), "{instruction}: {error}");
        assert!(
            error.contains("--> Dockerfile:2:"),
            "{instruction}: {error}"
        );
        assert_ne!(outcome.result.unwrap_err().kind(), ErrorKind::Host);
    }
}

#[test]
fn add_unpacks_local_archives() {
    let project = project!();
    let archive = support::Archive::new()
        .directory("in/", 0o750, 5)
        .file("in/side", b"tar")
        .finish();
    for (name, tool) in [
        ("plain.tar", "cat"),
        ("packed.tgz", "gzip"),
        ("packed.txz", "xz"),
    ] {
        let packed = support::filter(tool, &archive).unwrap();
        fs::write(project.options.context.join(name), packed).unwrap();
        project
            .build(&format!("FROM busybox\nADD {name} /opt/\n"))
            .id();
        assert_eq!(project.text("opt/in/side"), "tar", "{name}");
        assert_eq!(
            fs::metadata(project.path("built", "opt/in").unwrap())
                .unwrap()
                .uid(),
            5
        );
        project
            .build(&format!("FROM busybox\nCOPY {name} /opt/\n"))
            .id();
        assert!(
            project
                .path("built", &format!("opt/{name}"))
                .unwrap()
                .is_file()
        );
    }
    project
        .file("text.tar", "no archive")
        .build("FROM busybox\nADD text.tar /opt/\n")
        .id();
    assert_eq!(project.text("opt/text.tar"), "no archive");
}

#[test]
fn dockerignore_hides_from_copies_and_from_keys() {
    let project = project!();
    project
        .file(
            ".dockerignore",
            "*.log\n!keep.log\nsecret\n**/node_modules\n",
        )
        .file("a.log", "")
        .file("keep.log", "k")
        .file("secret/key", "")
        .file("src/node_modules/x", "")
        .file("src/main", "m");
    let dockerfile = "FROM busybox\nCOPY . /c\n";
    let first = project.build(dockerfile).id();
    assert_eq!(project.text("c/keep.log"), "k");
    assert_eq!(project.text("c/src/main"), "m");
    for hidden in ["c/a.log", "c/secret", "c/src/node_modules"] {
        assert!(project.path("built", hidden).is_none(), "{hidden}");
    }
    project
        .file("a.log", "changed")
        .file("src/node_modules/x", "changed");
    assert_eq!(project.build(dockerfile).id(), first);
    let error = project.build("FROM busybox\nCOPY a.log /\n").error();
    assert!(error.contains("left out by .dockerignore"), "{error}");
    // The Dockerfile's own list goes first.
    project.file("Dockerfile.dockerignore", "keep.log");
    project.build(dockerfile).id();
    assert!(project.path("built", "c/keep.log").is_none());
    assert!(project.path("built", "c/a.log").is_some());
}

#[test]
fn run_takes_here_documents_and_other_shells() {
    let project = project!();
    let built = project.build(
        "FROM busybox\n\
         RUN <<EOF\necho one\nA=two\necho $A\nEOF\n\
         RUN cat <<-'X' >/x && echo three\n\t$raw\n\tX\n\
         RUN <<SCRIPT\n#!/bin/cat\nfour\nSCRIPT\n\
         SHELL [\"/bin/sh\", \"-ec\"]\n\
         RUN false; echo not reached\n",
    );
    assert_eq!(
        built.output(),
        ["one", "two", "three", "#!/bin/cat", "four"]
    );
    let error = built.error();
    assert!(error.contains("exit code 1"), "{error}");
    project
        .build("FROM busybox\nRUN cat <<-'X' >/x\n\t$raw\n\tX\n")
        .id();
    assert_eq!(project.text("x"), "$raw\n");
    assert!(project.path("built", ".bulkhead-heredoc").is_none());
    let exec = project.build("FROM busybox\nRUN [\"/bin/echo\", \"$HOME\", \"a b\"]\n");
    assert_eq!(exec.output(), ["$HOME a b"]);
}

#[test]
fn run_mounts_caches_binds_and_tmpfs() {
    let project = project!();
    project
        .file("input/file", "bound")
        .file(".dockerignore", "input/hidden")
        .file("input/hidden", "");
    let dockerfile = |n: u32| {
        format!(
            "FROM busybox AS other\nRUN mkdir /o && echo stage >/o/s\nFROM busybox\n\
             RUN --mount=type=cache,target=/cache --mount=type=bind,source=input,target=/in \
             --mount=type=bind,from=other,source=/o,target=/o --mount=type=tmpfs,target=/t \
             echo {n} >>/cache/log; cat /cache/log | wc -l; cat /in/file /o/s; ls /in; touch /t/x; touch /in/x 2>/t/err || true\n"
        )
    };
    assert_eq!(
        project.build(&dockerfile(1)).output(),
        ["1", "boundstage", "file"]
    );
    assert_eq!(
        project.build(&dockerfile(2)).output(),
        ["2", "boundstage", "file"]
    );
    assert_eq!(project.build(&dockerfile(2)).cached(), 2);
    project.file("input/file", "other");
    assert_eq!(
        project.build(&dockerfile(2)).output(),
        ["3", "otherstage", "file"]
    );
    for path in ["cache", "in", "o", "t"] {
        assert!(
            project.path("built", path).is_none(),
            "{path} is no part of the image"
        );
    }
    for (flag, part) in [
        (
            "--mount=type=secret,id=x,target=/x",
            "type=secret is not supported",
        ),
        ("--mount=type=cache", "needs a target"),
        (
            "--mount=type=cache,target=/x,sharing=private",
            "sharing=private is not supported",
        ),
        ("--mount=type=cache,traget=/x", "did you mean 'target'?"),
        ("--network=host", "--network=host is not supported"),
        ("--security=insecure", "not supported"),
        ("--mont=x", "did you mean 'mount'?"),
    ] {
        let error = project
            .build(&format!("FROM busybox\nRUN {flag} true\n"))
            .error();
        assert!(error.contains(part), "{flag}: {error}");
        assert!(error.contains("--> Dockerfile:2:"), "{flag}: {error}");
    }
}

#[test]
fn a_failed_step_says_what_and_where_and_leaves_no_image() {
    let project = project!();
    let outcome =
        project.build("FROM busybox\nRUN echo fine\n\n  RUN echo broken; \\\n   exit 3\n");
    let error = outcome.error();
    assert!(
        error.starts_with("the command ended with exit code 3\n --> Dockerfile:4:3\n"),
        "{error}"
    );
    assert!(error.ends_with("  |   ^^^"), "{error}");
    let failed = outcome.events.last().unwrap();
    assert_eq!(
        *failed,
        BuildEvent::Failed {
            number: 3,
            exit_code: Some(3),
            last_lines: vec!["broken".to_owned()],
            file: "Dockerfile".to_owned(),
            line: 4,
        }
    );
    assert_eq!(
        project.store.resolve("built").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        project.build("FROM busybox\nRUN echo fine\n").cached(),
        1,
        "what succeeded is kept"
    );
}

#[test]
fn removed_files_are_gone_and_directories_made_anew_are_opaque() {
    let project = project!();
    project.file("d/old", "").file("d/new", "n");
    let built = project.build(
        "FROM busybox\nCOPY d /d\nRUN rm -r /d && mkdir /d && echo fresh >/d/fresh && rm /etc/group\nRUN ls /d && ls /etc\n",
    );
    assert_eq!(built.output(), ["fresh", "passwd", "resolv.conf"]);
    let volume = project.directory.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let image = project.store.resolve("built").unwrap();
    assert!(project.store.copy_up(&image.layers, "/d", &volume).unwrap());
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 1);
    // Steps that change nothing make no layer.
    assert_eq!(image.layers.len(), 3);
}

#[test]
fn builds_at_once_do_not_disturb_each_other() {
    let project = project!();
    project.file("shared", "s");
    std::thread::scope(|scope| {
        for number in 0..4 {
            let project = &project;
            scope.spawn(move || {
                let path = project.options.context.join(format!("Dockerfile.{number}"));
                fs::write(
                    &path,
                    format!(
                        "FROM busybox\nCOPY shared /s\nRUN echo same >/x\nRUN echo {} >/n\n",
                        number / 2
                    ),
                )
                .unwrap();
                let mut options = project.options.clone();
                options.dockerfile = path;
                options.tags = vec![format!("built-{number}")];
                let progress = |_| ();
                let runner = support::project::Unshared;
                bulkhead_image::build::Builder::new(&project.store, &runner, &progress)
                    .build(&options)
                    .unwrap();
                // Removing waits for nobody and takes nothing that a build needs.
                project.store.prune(false, false, &|_| false).unwrap();
            });
        }
    });
    for number in 0..4 {
        let path = project.path(&format!("built-{number}"), "n").unwrap();
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            format!("{}\n", number / 2)
        );
    }
    project.store.prune(false, false, &|_| false).unwrap();
    support::nothing_temporary(&project.store);
}
