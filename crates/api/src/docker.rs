//! The types of the Docker Engine API, version 1.51, as generated from its specification, and the
//! labels by which Compose's tools know a project's objects.
//!
//! A sandbox's kind travels in `HostConfig.Runtime`, as `container` or `microvm`.

pub use bollard_stubs::models::*;
pub use bollard_stubs::query_parameters;

/// The annotation in `HostConfig.Annotations` that tells a sandbox's kind in `GET
/// /containers/json`, whose `HostConfig` has no `Runtime`.
pub const KIND_ANNOTATION: &str = "bulkhead.runtime";

/// The label that forces a micro VM's accelerator: `kvm` or `tcg`.
pub const ACCELERATOR_LABEL: &str = "bulkhead.accelerator";

/// Labels that Docker Compose puts on what it makes; ours are the same, so that its tools see our
/// projects and ours see its.
pub mod labels {
    pub const PROJECT: &str = "com.docker.compose.project";
    pub const SERVICE: &str = "com.docker.compose.service";
    pub const CONTAINER_NUMBER: &str = "com.docker.compose.container-number";
    pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
    /// `True` on the sandbox of a `run`, `False` on a service's own.
    pub const ONEOFF: &str = "com.docker.compose.oneoff";
    pub const WORKING_DIRECTORY: &str = "com.docker.compose.project.working_dir";
    pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
    pub const NETWORK: &str = "com.docker.compose.network";
    pub const VOLUME: &str = "com.docker.compose.volume";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Docker's own command line (20.10) sends for `docker run -p 80:80 -v a:/b image`.
    const CREATE_BODY: &str = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,
        "AttachStdout":true,"AttachStderr":true,"ExposedPorts":{"80/tcp":{}},"Tty":false,
        "OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"image","Volumes":{},
        "WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},
        "HostConfig":{"Binds":["a:/b"],"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},
        "NetworkMode":"default","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"80"}]},
        "RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"",
        "VolumesFrom":null,"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],
        "DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"",
        "Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,"PublishAllPorts":false,
        "ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":0,
        "ConsoleSize":[0,0],"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,
        "CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],"BlkioDeviceReadBps":null,
        "BlkioDeviceWriteBps":null,"BlkioDeviceReadIOps":null,"BlkioDeviceWriteIOps":null,
        "CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"",
        "CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,
        "KernelMemory":0,"KernelMemoryTCP":0,"MemoryReservation":0,"MemorySwap":0,
        "MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":null,"CpuCount":0,
        "CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,
        "ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{}},"Platform":null}"#;

    #[test]
    fn a_stock_clients_create_body_is_read() {
        let body: ContainerCreateBody = serde_json::from_str(CREATE_BODY).expect("body");
        let host = body.host_config.expect("host configuration");
        assert_eq!(host.binds, Some(vec!["a:/b".to_owned()]));
        assert_eq!(host.isolation, Some(HostConfigIsolationEnum::EMPTY));
    }
}
