//! The command line: what comes before the verb, and the verbs.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;

/// Runs every service in a container or in a micro VM, from one Compose file.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What holds for every verb.
#[derive(Debug, Clone, Default, Args)]
pub struct Globals {
    /// Compose file; several are merged, the later over the earlier
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Project name
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,
    /// Directory that relative paths of the Compose file start from
    #[arg(long, value_name = "DIR")]
    pub project_directory: Option<PathBuf>,
    /// File with variables for the Compose file, instead of .env
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// Profile to switch on
    #[arg(long = "profile", value_name = "NAME")]
    pub profiles: Vec<String>,
    /// Directory of the daemon's socket and files, so that several can run side by side
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// Socket of the daemon [env: BULKHEAD_HOST, DOCKER_HOST]
    #[arg(short = 'H', long, value_name = "unix://PATH", global = true)]
    pub host: Option<String>,
}

/// For verbs where it is no hindrance: `-f` and `-p` after the verb, too.
#[derive(Debug, Clone, Default, Args)]
pub struct LateGlobals {
    #[arg(short = 'f', long = "file", value_name = "FILE", hide = true)]
    pub late_files: Vec<PathBuf>,
    #[arg(
        short = 'p',
        long = "project-name",
        value_name = "NAME",
        hide = true,
        id = "late_project"
    )]
    pub late_project_name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Bring a project up
    Up(commands::up::Up),
    /// Remove a project's sandboxes and networks
    Down(commands::down::Down),
    /// List sandboxes
    Ps(commands::ps::Ps),
    /// List a project's services: kind, replicas, health, memory, start time, address
    Status(commands::status::Status),
    /// List projects
    Ls(commands::ls::Ls),
    /// Show what sandboxes have written
    Logs(commands::logs::Logs),
    /// Run a command in a running sandbox
    Exec(commands::exec::Exec),
    /// Run a command in a new sandbox
    Run(Box<commands::run::Run>),
    /// Build the images of a project, or one image
    Build(commands::build::Build),
    /// List images
    Images(commands::images::Images),
    /// Make an image of a root filesystem's archive
    Import(commands::import::Import),
    /// Remove images
    Rmi(commands::rmi::Rmi),
    /// Give an image one more name
    Tag(commands::tag::Tag),
    /// Fetch an image from a registry
    Pull(commands::pull::Pull),
    /// Stop sandboxes
    Stop(commands::stop::Stop),
    /// Start stopped sandboxes
    Start(commands::start::Start),
    /// Restart sandboxes
    Restart(commands::restart::Restart),
    /// Send sandboxes a signal
    Kill(commands::kill::Kill),
    /// Remove sandboxes
    Rm(commands::rm::Rm),
    /// Stop all processes of sandboxes for a while
    Pause(commands::pause::Pause),
    /// Let paused sandboxes go on
    Unpause(commands::unpause::Unpause),
    /// Wait until sandboxes end, and print their exit codes
    Wait(commands::wait::Wait),
    /// List the processes of sandboxes
    Top(commands::top::Top),
    /// Show what sandboxes use
    Stats(commands::stats::Stats),
    /// Show where a port is published
    Port(commands::port::Port),
    /// Show all that is known of sandboxes, images, networks or volumes
    Inspect(commands::inspect::Inspect),
    /// Show events as they happen
    Events(commands::events::Events),
    /// Show the project as it is understood
    Config(commands::config::Config),
    /// Manage networks
    Network(commands::network::Network),
    /// Manage volumes
    Volume(commands::volume::Volume),
    /// Show versions
    Version(commands::version::Version),
    /// Show the daemon and its host
    Info(commands::info::Info),
    /// Check what this host offers, and say what is missing
    Doctor(commands::doctor::Doctor),
    /// Run or stop the daemon
    Daemon(commands::daemon::Daemon),
    /// Print a shell's completion script
    Completion(commands::completion::Completion),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("bulkhead").chain(line.split_whitespace()))
    }

    #[test]
    fn no_two_flags_clash() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_flags_of_docker_and_compose_are_taken() {
        for line in [
            "up -d --build --wait --wait-timeout 60 --scale web=2 --scale db=1 --force-recreate \
             --remove-orphans -t 5 web db",
            "up --no-recreate --no-deps web",
            "up -f x.yaml -d",
            "-f a.yaml -f b.yaml -p shop --profile debug --env-file x --project-directory . up",
            "--root /tmp/b up",
            "up --root /tmp/b -H unix:///x.sock",
            "down -v --remove-orphans -t 1",
            "ps -a -q --format json --services",
            "ps -aq",
            "logs -f --tail 10 --since 10m --until 5m -t --no-color --no-log-prefix web db",
            "-f x.yaml logs -f",
            "exec -it -d -e A=1 -u web -w /srv --index 2 --privileged web sh -c -x",
            "exec -T db psql -c x",
            "run --rm -it -d --name n -p 80:80 -v a:/b --mount type=tmpfs,target=/t -e A \
             --env-file f -w / -u 0 --entrypoint sh --runtime microvm --network n --memory 1g \
             --cpus 1 --pids-limit 5 --label a=b --hostname h --read-only --tmpfs /t \
             --cap-add ALL --cap-drop NET_RAW --privileged --init --restart no --health-cmd x \
             --health-interval 1s --health-timeout 1s --health-retries 1 \
             --health-start-period 1s --stop-signal INT --ulimit nofile=1 \
             --security-opt no-new-privileges --shm-size 1m --storage-opt size=1G --pull never image cmd -x --rm",
            "build -t a -f F . --build-arg A=1 --target t --no-cache --progress plain --iidfile i -q",
            "build web",
            "images -q --format json",
            "import - name:tag --change ENV=1",
            "rmi -f a b",
            "tag a b",
            "stop -t 3 web",
            "start web",
            "restart -t 3",
            "kill -s TERM web",
            "rm -f -s -v web",
            "inspect --format json web",
            "inspect -f {{.State}} web",
            "config --format yaml --services --quiet",
            "config --format json",
            "version --format json",
            "info",
            "doctor --format json",
            "daemon --detach",
            "daemon stop",
            "daemon --root /x stop --force",
            "completion bash",
            "top web",
            "stats --no-stream",
            "pause web",
            "unpause web",
            "wait web",
            "port web 80",
            "events --since 1m",
            "network ls",
            "volume ls -q",
            "volume rm a b",
            "pull x",
            "status --format json",
            "ls",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_comes_before_the_verb_is_not_the_verbs() {
        let arguments = parse("-f x.yaml logs -f web").expect("arguments");
        assert_eq!(arguments.globals.files, [PathBuf::from("x.yaml")]);
        let Verb::Logs(logs) = arguments.verb else {
            panic!("another verb");
        };
        assert!(format!("{logs:?}").contains("follow: true"), "{logs:?}");
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for line in [
            "",
            "upp",
            "up --bild",
            "exec web",
            "run",
            "logs --tail",
            "up --build --no-build",
            "volume rm",
            "ps --format xml",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
