//! A name server for the pods of the local cluster, which has none. It answers for Services.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use serde_json::json;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::HostContext;
use crate::objects::{api, apply};

/// The Service whose address the pods have as their name server. It has no endpoints otherwise.
const SERVICE: (&str, &str) = ("kube-system", "kube-dns");
/// Bytes of the header of a message (RFC 1035, section 4.1.1).
const HEADER_BYTES: usize = 12;
/// Types of questions: an IPv4 address.
const TYPE_A: u16 = 1;

/// A running name server. It ends when it is dropped.
pub(super) struct NameServer {
    client: Client,
    task: JoinHandle<()>,
}

impl NameServer {
    /// Starts the name server on this host, as the only endpoint of the Service of the cluster.
    ///
    /// # Errors
    /// If the address cannot be used, or if the API server rejects the endpoint.
    pub(super) async fn start(host: HostContext<'_>) -> Result<Self> {
        let ip = host.cluster.network().host();
        let socket = UdpSocket::bind(SocketAddr::from((ip, 0))).await?;
        let port = socket.local_addr()?.port();
        let slice = endpoint_slice(ip, port);
        apply(host.client, &slice).await?;
        let client = host.client.clone();
        let task = tokio::spawn(serve(socket, client.clone()));
        Ok(Self { client, task })
    }

    /// Removes the endpoint.
    ///
    /// # Errors
    /// If the API server rejects the request.
    pub(super) async fn stop(&self) -> Result<()> {
        self.task.abort();
        let slice = endpoint_slice(Ipv4Addr::UNSPECIFIED, 0);
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        api(&self.client, &slice)
            .delete(name, &kube::api::DeleteParams::default())
            .await?;
        Ok(())
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn endpoint_slice(ip: Ipv4Addr, port: u16) -> serde_json::Value {
    let (namespace, service) = SERVICE;
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "serin-e2e-dns", "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "dns", "port": port, "protocol": "UDP"}],
    })
}

async fn serve(socket: UdpSocket, client: Client) {
    let mut buffer = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(question) = Question::parse(buffer.get(..length).unwrap_or_default()) else {
            continue;
        };
        let address = match question.service() {
            Some((name, namespace)) => cluster_ip(&client, name, namespace).await,
            None => None,
        };
        // A client asks again if this answer is lost.
        let _ = socket.send_to(&question.answer(address), from).await;
    }
}

async fn cluster_ip(client: &Client, name: &str, namespace: &str) -> Option<Ipv4Addr> {
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let service = services.get_opt(name).await.ok()??;
    service.spec?.cluster_ip?.parse().ok()
}

/// The question of a message. There is exactly one in practice.
struct Question {
    /// The header and the question as they were received.
    message: Vec<u8>,
    name: String,
    type_: u16,
}

impl Question {
    fn parse(message: &[u8]) -> Option<Self> {
        let mut labels = Vec::new();
        let mut at = HEADER_BYTES;
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = message.get(at..at + length)?;
            labels.push(std::str::from_utf8(label).ok()?.to_lowercase());
            at += length;
        }
        let type_ = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
        Some(Self {
            message: message.get(..at + 4)?.to_vec(),
            name: labels.join("."),
            type_,
        })
    }

    /// Name and namespace, if the name is one of a Service.
    fn service(&self) -> Option<(&str, &str)> {
        let name = self.name.strip_suffix(".svc.cluster.local")?;
        name.split_once('.')
    }

    /// The answer: the address, no address of this type, or that the name does not exist.
    fn answer(&self, address: Option<Ipv4Addr>) -> Vec<u8> {
        let mut answer = self.message.clone();
        let is_found = address.is_some();
        let address = address.filter(|_| self.type_ == TYPE_A);
        // A response with recursion, with or without the error that the name does not exist.
        answer[2..4].copy_from_slice(&[0x81, if is_found { 0x80 } else { 0x83 }]);
        answer[4..HEADER_BYTES].copy_from_slice(&[
            0,
            1,
            0,
            u8::from(address.is_some()),
            0,
            0,
            0,
            0,
        ]);
        if let Some(address) = address {
            // The name of the question, type A, class IN, 5 s, 4 bytes.
            answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            answer.extend(address.octets());
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, type_: u16) -> Vec<u8> {
        let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(type_.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    #[test]
    fn a_service_has_an_ipv4_address_only() {
        let address = Some(Ipv4Addr::new(198, 18, 2, 1));
        let question = Question::parse(&message("Pilot.mesh.svc.cluster.local", 1)).unwrap();
        assert_eq!(question.service(), Some(("pilot", "mesh")));
        let answer = question.answer(address);
        assert_eq!(answer[..4], [7, 7, 0x81, 0x80]);
        assert_eq!(answer[answer.len() - 4..], [198, 18, 2, 1]);
        let question = Question::parse(&message("pilot.mesh.svc.cluster.local", 28)).unwrap();
        assert_eq!(question.answer(address)[6..8], [0, 0]);
    }

    #[test]
    fn another_name_does_not_exist_and_a_short_message_is_ignored() {
        let question = Question::parse(&message("example.com", 1)).unwrap();
        assert_eq!(question.service(), None);
        assert_eq!(question.answer(None)[3], 0x83);
        assert!(Question::parse(&message("example.com", 1)[..14]).is_none());
    }
}
