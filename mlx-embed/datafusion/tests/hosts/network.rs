//! Hosts on one network: namespaces of this kernel, joined by a bridge in the first.

use std::process::{Child, Command, Output, Stdio};

/// Hosts 1 to n, whose addresses are 10.23.0.1 and so on. They are gone with this value.
#[derive(Debug)]
pub(crate) struct Network {
    names: Vec<String>,
}

impl Network {
    /// `None`, with the reason on stderr, where this user can't make any.
    pub(crate) fn of(hosts: usize) -> Option<Self> {
        let name = |host| format!("mlx-embed-{}-{host}", std::process::id());
        let mut network = Self { names: Vec::new() };
        for host in 1..=hosts {
            let made = Command::new("ip").args(["netns", "add", &name(host)]).output();
            if !made.as_ref().is_ok_and(|made| made.status.success()) {
                eprintln!("not tried: this user can't make network namespaces ({made:?})");
                return None;
            }
            network.names.push(name(host));
        }
        network.join();
        Some(network)
    }

    fn join(&self) {
        let bridge = &self.names[0];
        ip(&["-n", bridge, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", bridge, "link", "set", "bridge", "up"]);
        for (host, name) in self.names.iter().enumerate() {
            let device = if host == 0 { "bridge".to_owned() } else { format!("to-{host}") };
            if host > 0 {
                let peer = ["type", "veth", "peer", "name", "bridge", "netns", name];
                ip(&[&["-n", bridge, "link", "add", &device], &peer[..]].concat());
                ip(&["-n", bridge, "link", "set", &device, "master", "bridge", "up"]);
            }
            ip(&["-n", name, "addr", "add", &format!("{}/24", Self::address(host + 1)), "dev", "bridge"]);
            ip(&["-n", name, "link", "set", "bridge", "up"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
    }

    pub(crate) fn address(host: usize) -> String {
        format!("10.23.0.{host}")
    }

    /// A program on a host.
    pub(crate) fn on(&self, host: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host - 1], program]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let Output { status, stderr, .. } = Command::new("ip").args(arguments).output().unwrap();
    assert!(status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&stderr));
}

/// A program that is killed with this value.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
