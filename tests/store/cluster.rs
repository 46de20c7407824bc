//! Redis Cluster.

use std::cell::Cell;

use ably_clerk_auth::{
    redis::{RedisAddress, RedisMode},
    store::{Connect as _, Health},
};

use crate::{
    fixtures::{Replica, connector, eventually},
    proxy::{Condition, Proxy},
    redis_server::{Certificate, RedisServer, free_port, run},
    topology::{Load, info, is_left_alone, lost_by, pause, resume, returns, urls},
};

const SLOTS: usize = 16_384;

pub(crate) struct Cluster {
    /// The masters, then their replicas in the same order.
    pub(crate) nodes: Vec<RedisServer>,
    bus_ports: Vec<u16>,
    tls_ports: Vec<u16>,
}

impl Cluster {
    pub(crate) async fn start(masters: usize, replicas: usize) -> Self {
        Self::start_nodes(masters, replicas, None).await
    }

    /// Nodes that talk to each other over TLS, and to clients with or without it.
    async fn start_with_tls(masters: usize, certificate: &Certificate) -> Self {
        Self::start_nodes(masters, 0, Some(certificate)).await
    }

    async fn start_nodes(masters: usize, replicas: usize, certificate: Option<&Certificate>) -> Self {
        let (bus_port, tls_port) = (Cell::default(), Cell::default());
        let (mut nodes, mut bus_ports, mut tls_ports) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..masters + replicas {
            let arguments = |port: u16| {
                bus_port.set(free_port());
                tls_port.set(free_port());
                let arguments = format!(
                    "--port {port} --cluster-enabled yes --cluster-port {} --cluster-announce-ip 127.0.0.1 \
                     --cluster-node-timeout 1500 --cluster-replica-validity-factor 0 --repl-diskless-sync-delay 0 \
                     --masteruser admin --masterauth admin",
                    bus_port.get()
                );
                let arguments = arguments.split(' ').map(str::to_owned);
                arguments.chain(certificate.iter().flat_map(|it| it.arguments(tls_port.get()))).collect()
            };
            nodes.push(RedisServer::start_on(arguments, &[]));
            bus_ports.push(bus_port.get());
            tls_ports.push(tls_port.get());
        }
        let cluster = Self { nodes, bus_ports, tls_ports };
        for (n, node) in cluster.nodes.iter().enumerate() {
            let mut admin = node.connection();
            let () = run(&mut admin, "ACL SETUSER aca +cluster|slots").unwrap();
            let () = run(&mut admin, &format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1)).unwrap();
            if n < masters {
                let (first, last) = (SLOTS * n / masters, SLOTS * (n + 1) / masters - 1);
                let () = run(&mut admin, &format!("CLUSTER ADDSLOTSRANGE {first} {last}")).unwrap();
            }
        }
        let mut first = cluster.nodes[0].connection();
        for (n, bus_port) in cluster.bus_ports.iter().enumerate().skip(1) {
            let port = if certificate.is_some() { cluster.tls_ports[n] } else { cluster.nodes[n].port() };
            let () = run(&mut first, &format!("CLUSTER MEET 127.0.0.1 {port} {bus_port}")).unwrap();
        }
        let known = format!("cluster_known_nodes:{}\r", cluster.nodes.len());
        cluster.each_says(&known).await;
        for n in 0..replicas {
            let id: String = run(&mut cluster.nodes[n].connection(), "CLUSTER MYID").unwrap();
            let mut replica = cluster.nodes[masters + n].connection();
            let () = run(&mut replica, &format!("CLUSTER REPLICATE {id}")).unwrap();
        }
        cluster.each_says("cluster_state:ok").await;
        for replica in &cluster.nodes[masters..] {
            is_in_sync(replica).await;
        }
        cluster
    }

    async fn each_says(&self, line: &str) {
        for node in &self.nodes {
            let mut admin = node.connection();
            let says = || run::<String>(&mut admin, "CLUSTER INFO").unwrap().contains(line);
            eventually("the nodes form a cluster", says).await;
        }
    }

    /// Has all nodes, or all but one, announce these ports of the bus, and waits until they know each other's.
    async fn announce(&self, out: Option<usize>, bus_port: impl Fn(usize) -> u16) {
        let nodes: Vec<_> = (0..self.nodes.len()).filter(|n| Some(*n) != out).collect();
        for &n in &nodes {
            let () = self.nodes[n].run(&format!("CONFIG SET cluster-announce-bus-port {}", bus_port(n)));
        }
        for &n in &nodes {
            let mut admin = self.nodes[n].connection();
            let knows_all = || {
                let known: String = run(&mut admin, "CLUSTER NODES").unwrap();
                nodes.iter().all(|&other| known.contains(&format!("{}@{}", self.name(other), bus_port(other))))
            };
            eventually("the nodes know each other's ports", knows_all).await;
        }
    }

    /// The node that has the data, if it is not that one.
    fn owner_other_than(&self, out: Option<usize>) -> Option<usize> {
        (0..self.nodes.len()).filter(|n| Some(*n) != out).find(|n| {
            let mut admin = self.nodes[*n].connection();
            // A replica names its master.
            run::<Option<String>>(&mut admin, "GET aca:{v4}:data_id").is_ok()
        })
    }

    pub(crate) fn owner(&self) -> usize {
        self.owner_other_than(None).unwrap()
    }

    /// Waits until another node has the data.
    async fn fails_over_from(&self, out: usize) -> usize {
        eventually("another node takes over", || self.owner_other_than(Some(out)).is_some()).await;
        self.owner_other_than(Some(out)).unwrap()
    }

    pub(crate) fn address(&self) -> RedisAddress {
        RedisAddress::parse(&urls("redis", self.nodes.iter().map(RedisServer::port))).unwrap()
    }

    pub(crate) fn name(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[node].port())
    }
}

async fn is_in_sync(replica: &RedisServer) {
    let mut admin = replica.connection();
    let is_up = || info(&mut admin, "replication").contains("master_link_status:up");
    eventually("the replica is in sync", is_up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_the_middle_of_load_loses_nothing() {
    let mut cluster = Cluster::start(3, 3).await;
    let first = cluster.owner();
    // A node hangs. The replica gives it up.
    let load = Load::of("user_1", Replica::impatient_at(&cluster.address()));
    // It has to find the others when the only node that it was told is gone.
    let other = Replica::impatient_at(&cluster.nodes[first].address());
    let replicas = [&*load.replica, &other];
    for replica in replicas {
        replica.becomes(Health::Ready).await;
    }

    load.goes_on().await;
    let outages = replicas.map(Replica::outages);
    cluster.nodes[first].kill();
    let second = cluster.fails_over_from(first).await;
    for (replica, outages) in replicas.into_iter().zip(outages) {
        returns(replica, outages + 1).await;
    }
    load.goes_on().await;

    assert!(cluster.nodes[first].start_again());
    let () = run(&mut cluster.nodes[first].connection(), "ACL SETUSER aca +cluster|slots").unwrap();
    is_in_sync(&cluster.nodes[first]).await;
    // This one will come back as if nothing had happened.
    let outages = replicas.map(Replica::outages);
    let paused = pause(&mut cluster.nodes[second].connection());
    assert_eq!(cluster.fails_over_from(second).await, first);
    for (replica, outages) in replicas.into_iter().zip(outages) {
        returns(replica, outages + 1).await;
    }
    load.goes_on().await;
    resume(paused);
    load.goes_on().await;
    load.ends(&[&other], &cluster.address()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_master_cut_off_from_the_other_nodes_is_not_used_any_more() {
    let cluster = Cluster::start(3, 3).await;
    let first = cluster.owner();
    let load = Load::of("user_1", Replica::ready_at(&cluster.address()).await);
    let other = Replica::ready_at(&cluster.nodes[first].address()).await;
    let replicas = [&*load.replica, &other];
    // A proxy before the bus of each node.
    let mut buses = Vec::new();
    for bus_port in &cluster.bus_ports {
        buses.push(Proxy::to(*bus_port).await);
    }
    cluster.announce(None, |node| buses[node].port).await;
    // Now the others reach each other without the proxies, and these carry the links of the master alone. It is not told.
    buses[first].becomes(Condition::Silent);
    cluster.announce(Some(first), |node| cluster.bus_ports[node]).await;
    // Its replica cannot log in any more, and misses what it writes.
    let () = cluster.nodes[first + 3].run("CONFIG SET masterauth wrong");
    let _: i64 = cluster.nodes[first].run("CLIENT KILL TYPE replica");
    load.goes_on().await;
    for bus in &buses {
        bus.becomes(Condition::Silent);
    }
    lost_by(&replicas, "the cut").await;
    cluster.fails_over_from(first).await;
    for replica in replicas {
        returns(replica, 1).await;
    }
    is_left_alone(&cluster.nodes[first]).await;
    load.goes_on().await;
    for bus in &buses {
        bus.becomes(Condition::Whole);
    }
    is_in_sync(&cluster.nodes[first]).await;
    load.goes_on().await;
    load.ends(&[&other], &cluster.address()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_moves_to_another_node_in_the_middle_of_load_is_followed() {
    let cluster = Cluster::start(2, 0).await;
    let (from, to) = (cluster.owner(), 1 - cluster.owner());
    let load = Load::of("user_1", Replica::ready_at(&cluster.address()).await);
    let other = Replica::ready_at(&cluster.nodes[from].address()).await;
    load.goes_on().await;

    let [mut from_admin, mut to_admin] = [from, to].map(|node| cluster.nodes[node].connection());
    let id_of = |admin: &mut redis::Connection| run::<String>(admin, "CLUSTER MYID").unwrap();
    let (from_id, to_id) = (id_of(&mut from_admin), id_of(&mut to_admin));
    let slot: usize = run(&mut from_admin, "CLUSTER KEYSLOT {v4}").unwrap();
    let () = run(&mut to_admin, &format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}")).unwrap();
    let () = run(&mut from_admin, &format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}")).unwrap();
    loop {
        let keys: Vec<String> = run(&mut from_admin, &format!("CLUSTER GETKEYSINSLOT {slot} 100")).unwrap();
        if keys.is_empty() {
            break;
        }
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(cluster.nodes[to].port()).arg("").arg(0).arg(5_000);
        let () = migrate.arg(&["AUTH2", "admin", "admin", "KEYS"]).arg(keys).query(&mut from_admin).unwrap();
    }
    for admin in [&mut to_admin, &mut from_admin] {
        let () = run(admin, &format!("CLUSTER SETSLOT {slot} NODE {to_id}")).unwrap();
    }
    for replica in [&*load.replica, &other] {
        returns(replica, 1).await;
    }
    load.goes_on().await;
    assert_eq!(cluster.owner(), to);
    load.ends(&[&other], &cluster.address()).await;
}

#[tokio::test]
async fn any_node_leads_to_the_one_that_has_the_data_also_over_tls() {
    let certificate = Certificate::new();
    let cluster = Cluster::start_with_tls(2, &certificate).await;
    let owner = cluster.owner();
    for node in 0..2 {
        let found = connector(&cluster.nodes[node].address()).probe().await.unwrap();
        assert_eq!((found.mode, found.node), (RedisMode::Cluster, cluster.name(owner)));
        assert_eq!((found.refused, found.refused_extras), (vec![], vec![]));
        let address = RedisAddress::parse(&urls("rediss", [cluster.tls_ports[node]])).unwrap();
        let address = address.trusting(certificate.pem()).unwrap();
        let found = connector(&address).probe().await.unwrap();
        assert_eq!((found.mode, found.node), (RedisMode::Cluster, format!("127.0.0.1:{}", cluster.tls_ports[owner])));
        Replica::ready_at(&address).await;
    }
    let address = urls("redis", [cluster.nodes[owner].port()]);
    for (user, cure) in [("aca:PASSWORD", "add +select"), ("admin:admin", "remove the database from REDIS_URL")] {
        let address = RedisAddress::parse(&format!("{}/3", address.replace("aca:PASSWORD", user))).unwrap();
        let reason = connector(&address).connect().await.unwrap_err().0;
        assert!(reason.contains(cure), "{reason}");
    }
}

#[tokio::test]
async fn a_node_with_a_tls_certificate_for_another_host_is_named_in_the_reason() {
    let certificate = Certificate::naming(&["localhost"]);
    let cluster = Cluster::start_with_tls(2, &certificate).await;
    let [port, announced] = [1 - cluster.owner(), cluster.owner()].map(|node| cluster.tls_ports[node]);
    let address = urls("rediss", [port]).replace("127.0.0.1", "localhost");
    let address = RedisAddress::parse(&address).unwrap().trusting(certificate.pem()).unwrap();
    let reason = connector(&address).connect().await.unwrap_err().0;
    assert!(reason.contains(&format!("127.0.0.1:{announced}: ")), "{reason}");
    assert!(reason.contains("certificate not valid for name"), "{reason}");
}

#[tokio::test]
async fn nodes_that_are_gone_are_each_named_in_the_reason() {
    let [one, other] = [free_port(), free_port()];
    let address = RedisAddress::parse(&urls("redis", [one, other])).unwrap();
    let reason = connector(&address).connect().await.unwrap_err().0;
    for port in [one, other] {
        assert!(reason.contains(&format!("127.0.0.1:{port}: ")), "{reason}");
    }
    // A node that is gone does not keep a replica from the others.
    let server = RedisServer::start();
    let address = RedisAddress::parse(&urls("redis", [one, server.port()])).unwrap();
    let _: Replica = Replica::ready_at(&address).await;
}
