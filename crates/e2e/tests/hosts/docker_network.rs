//! Docker's networks: a namespace that Docker makes ready through a hook of the runtime's.

use anyhow::{Result, ensure};
use bulkhead_e2e::Scenario;
use bulkhead_e2e::instance::eventually;

use crate::docker::{Docker, IMAGE, NEEDED, Network};
use crate::support::Ground;

#[test]
fn containers_of_docker_talk_to_each_other() -> Result<()> {
    let tools = [("/usr/sbin/iptables", "iptables"), ("/sbin/ip", "iproute2")];
    let Some(ground) = Ground::new(&[&NEEDED[..], &tools[..]].concat())? else {
        return Ok(());
    };
    let docker = Docker::start(&ground, Network::Bridge)?;
    let mut scenario = Scenario::default();
    scenario.step("two containers on one network", || {
        let run = ["run", "--runtime", "bulkhead", "--network", "net"];
        let server = ["--detach", "--name", "server", IMAGE, "sh", "-c"];
        let script = "while :; do echo hello | nc -l -p 8000; done";
        docker.said(&["network", "create", "net"])?;
        docker.said(&[&run[..], &server, &[script]].concat())?;
        let client = ["--rm", IMAGE, "nc", "server", "8000"];
        eventually("the server answers", || {
            let said = docker.said(&[&run[..], &client].concat())?;
            ensure!(said == "hello\n", "{said:?}");
            Ok(())
        })?;
        let said = docker.said(&["exec", "server", "ls", "/sys/class/net"])?;
        ensure!(said == "eth0\nlo\n", "{said:?}");
        let shared = ["run", "--rm", "--runtime", "bulkhead", "--network"];
        let client = ["container:server", IMAGE, "nc", "127.0.0.1", "8000"];
        let said = docker.said(&[&shared[..], &client].concat())?;
        ensure!(said == "hello\n", "{said:?}");
        docker.said(&["rm", "--force", "server"])?;
        docker.said(&["network", "rm", "net"]).map(drop)
    });
    scenario.step("daemons end", || docker.stop());
    scenario.step("nothing is left", || {
        let left = ground.leftovers()?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    });
    scenario.finish()
}
