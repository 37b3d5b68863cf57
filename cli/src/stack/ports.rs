//! The loopback ports of a stack. The stack reserves all of them before it starts a process, so
//! that a busy port gives one clear line and not a service that fails later.
//!
//! To reserve a port, a socket binds it with `SO_REUSEADDR` and does not listen. On Linux the
//! process that the port is for can still listen on it, while the kernel gives it to no other stack
//! and no outgoing connection. On other systems the stack releases the port just before that
//! process starts.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::bail;
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use super::{Member, Part};

/// The environment variable that moves all ports.
pub const PORT_BASE_VARIABLE: &str = "SURGE_PORT_BASE";

/// HTTP on 7101 to 7105, gRPC on 7201 to 7203; second replicas on 7141 to 7143 and 7241 to 7243,
/// third ones ten higher.
const STANDARD_BASE: u16 = 7100;

/// The highest port, gRPC of a fifth price-optimization, minus the base.
const HIGHEST_OFFSET: u16 = 173;

/// Which ports a stack takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// The documented ports. PostgreSQL and NATS get free ones, because a machine often has its
    /// own.
    #[default]
    Standard,
    /// The documented offsets above this base, PostgreSQL and NATS included.
    Base(u16),
    /// Any free ports, so that stacks can run side by side.
    Free,
}

/// The ports that a stack has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMap {
    /// REST of driver-management, ride-management and price-optimization, of each replica.
    pub http: [Vec<u16>; 3],
    /// gRPC of the same three.
    pub grpc: [Vec<u16>; 3],
    /// Health and metrics of the batch job.
    pub batch: u16,
    /// Health, metrics and ground truth of the city.
    pub city: u16,
    /// The Jaeger UI.
    pub traces: u16,
    /// The collector of spans, OTLP over gRPC.
    pub otlp: u16,
    /// PostgreSQL.
    pub postgres: u16,
    /// NATS, each node.
    pub nats: Vec<u16>,
}

/// The reserved ports of a stack. They stay reserved while it lives, so that a killed part can
/// return to its own.
#[derive(Debug)]
pub(super) struct PortReservation {
    pub(super) map: PortMap,
    held: Vec<(u16, TcpSocket)>,
}

impl Ports {
    /// The ports that `SURGE_PORT_BASE` asks for, or the standard ports.
    ///
    /// # Errors
    /// When it is set to another text than a base.
    pub fn from_environment() -> anyhow::Result<Self> {
        let Some(value) = std::env::var_os(PORT_BASE_VARIABLE) else {
            return Ok(Self::Standard);
        };
        let highest = u16::MAX - HIGHEST_OFFSET;
        let base = value.to_str().and_then(|text| text.parse().ok());
        match base {
            Some(base) if (1024..=highest).contains(&base) => Ok(Self::Base(base)),
            _ => bail!("{PORT_BASE_VARIABLE} must be a port between 1024 and {highest}"),
        }
    }

    /// Reserves all ports, for `replicas` of each service and `nats_nodes`.
    pub(super) fn reserve(self, replicas: u8, nats_nodes: u8) -> anyhow::Result<PortReservation> {
        let mut held = Vec::new();
        let mut take = |port: Option<u16>, use_of_it: &str| {
            let socket = bind(port.unwrap_or(0), use_of_it)?;
            let port = socket.local_addr()?.port();
            held.push((port, socket));
            anyhow::Ok(port)
        };
        let mut edge = |offset: u16, use_of_it: &str| -> anyhow::Result<Vec<u16>> {
            let ports = (1..=replicas).map(|number| self.port(offset + replica_offset(number)));
            ports.map(|port| take(port, use_of_it)).collect()
        };
        let http = [
            edge(1, "REST of driver-management")?,
            edge(2, "REST of ride-management")?,
            edge(3, "REST of price-optimization")?,
        ];
        let grpc = [
            edge(101, "gRPC of driver-management")?,
            edge(102, "gRPC of ride-management")?,
            edge(103, "gRPC of price-optimization")?,
        ];
        let nodes = (0..u16::from(nats_nodes)).map(|node| self.server_port(22 + node));
        let map = PortMap {
            http,
            grpc,
            nats: nodes
                .map(|port| take(port, "NATS"))
                .collect::<Result<_, _>>()?,
            batch: take(self.port(4), "metrics of the batch job")?,
            city: take(self.port(5), "the city")?,
            traces: take(self.port(86), "the Jaeger UI")?,
            otlp: take(self.port(117), "the trace collector")?,
            postgres: take(self.server_port(32), "PostgreSQL")?,
        };
        Ok(PortReservation { map, held })
    }

    fn port(self, offset: u16) -> Option<u16> {
        match self {
            Self::Standard => Some(STANDARD_BASE + offset),
            Self::Base(base) => Some(base + offset),
            Self::Free => None,
        }
    }

    fn server_port(self, offset: u16) -> Option<u16> {
        match self {
            Self::Base(base) => Some(base + offset),
            Self::Standard | Self::Free => None,
        }
    }
}

/// The distance from the first replica's ports to those of this one.
fn replica_offset(number: u8) -> u16 {
    match number {
        1 => 0,
        number => 20 + 10 * u16::from(number),
    }
}

impl PortReservation {
    /// Releases the ports of a process that is about to listen on them, where that is necessary.
    pub(super) fn release(&mut self, member: impl Into<Member>) {
        if cfg!(not(target_os = "linux")) {
            let own = self.map.of(member);
            self.held.retain(|(port, _)| !own.contains(port));
        }
    }
}

impl PortMap {
    /// All ports of a process, the main one first; none if there is no such process.
    pub fn of(&self, member: impl Into<Member>) -> Vec<u16> {
        let member = member.into();
        let index = member.index();
        let of_service = |service: usize| {
            let edges = [&self.http[service], &self.grpc[service]];
            edges
                .into_iter()
                .filter_map(|ports| ports.get(index).copied())
                .collect()
        };
        match member.part {
            Part::Postgres => vec![self.postgres],
            Part::Nats => self.nats.get(index).copied().into_iter().collect(),
            Part::TraceView => vec![self.traces, self.otlp],
            Part::DriverManagement => of_service(0),
            Part::RideManagement => of_service(1),
            Part::PriceOptimization => of_service(2),
            Part::Batch => vec![self.batch],
            Part::City => vec![self.city],
        }
    }

    /// The number of processes of a part.
    pub(super) fn count(&self, part: Part) -> u8 {
        let count = match part {
            Part::Nats => self.nats.len(),
            Part::DriverManagement | Part::RideManagement | Part::PriceOptimization => {
                self.http[0].len()
            }
            _ => 1,
        };
        u8::try_from(count).unwrap_or(Member::MOST)
    }

    /// Every process but the city, behind those it depends on.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> {
        let counts = Part::ALL.map(|part| (part, self.count(part)));
        counts
            .into_iter()
            .flat_map(|(part, count)| Member::first(part, count))
    }
}

/// `http://127.0.0.1:port`, which serves REST and gRPC alike.
pub(crate) fn url(port: u16) -> String {
    format!("http://{}", address(port))
}

pub(crate) fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn bind(port: u16, use_of_it: &str) -> anyhow::Result<TcpSocket> {
    take(port).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {port} on 127.0.0.1 is in use, and {use_of_it} needs it: stop the process that \
             holds it, or move the whole stack, for example with {PORT_BASE_VARIABLE}={}",
            another_base(port)
        ),
        _ => anyhow::Error::new(error).context(format!("cannot open port {port} for {use_of_it}")),
    })
}

/// Reserves a port, 0 for a free one.
fn take(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // As a listener does: old connections in TIME_WAIT do not make the port busy.
    socket.set_reuseaddr(true)?;
    socket.bind(address(port))?;
    Ok(socket)
}

/// A base whose ports do not include the busy one.
fn another_base(busy: u16) -> u16 {
    match busy {
        7300..=7600 => 8300,
        _ => 7300,
    }
}

/// Whether the ports are free now.
///
/// # Errors
/// The first busy port.
pub(crate) fn check(ports: Ports) -> anyhow::Result<PortMap> {
    ports.reserve(1, 1).map(|reservation| reservation.map)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn standard_ports_are_the_documented_ones() {
        let port = |offset| Ports::Standard.port(offset);
        assert_eq!(port(3), Some(7103));
        assert_eq!(port(103), Some(7203));
        assert_eq!(port(86), Some(7186));
        assert_eq!(Ports::Standard.server_port(32), None);
        assert_eq!(Ports::Base(9000).server_port(32), Some(9032));
    }

    #[test]
    fn replicas_have_ports_of_their_own() {
        let map = Ports::Free.reserve(3, 3).unwrap().map;
        let mut all: Vec<u16> = map.members().flat_map(|member| map.of(member)).collect();
        assert_eq!(all.len(), 3 * 3 * 2 + 3 + 2 + 1 + 1);
        all.sort_unstable();
        all.dedup();
        assert_eq!(
            all.len(),
            3 * 3 * 2 + 3 + 2 + 1 + 1,
            "two processes have the same port"
        );
        assert_eq!([1, 2, 3, 5].map(replica_offset), [0, 40, 50, 70]);
        assert_eq!(103 + replica_offset(Member::MOST), HIGHEST_OFFSET);
    }

    #[test]
    fn busy_port_error_names_a_remedy() {
        let holder = TcpListener::bind(address(0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let message = bind(port, "NATS").unwrap_err().to_string();
        assert!(message.contains(&format!("port {port} ")), "{message}");
        assert!(message.contains("SURGE_PORT_BASE="), "{message}");
    }

    #[test]
    fn released_port_can_be_listened_on() {
        let mut reservation = Ports::Free.reserve(1, 1).unwrap();
        let port = reservation.map.nats[0];
        reservation.release(Part::Nats);
        assert!(TcpListener::bind(address(port)).is_ok());
    }
}
