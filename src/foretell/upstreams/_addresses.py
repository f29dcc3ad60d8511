"""Addresses that no model is at, and where secrets of the machine can be read without a key."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_FORBIDDEN = tuple(
    ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local; metadata of AWS, Azure, Google Cloud and others
        "fe80::/10",  # link-local
        "fd00:ec2::254/128",  # metadata of AWS
        "fd20:ce::254/128",  # metadata of Google Cloud
        "100.100.100.200/32",  # metadata of Alibaba Cloud
    )
)
_NAT64 = ip_network("64:ff9b::/96")


def is_forbidden_address(address: str) -> bool:
    """Whether ``address`` is link-local or a cloud's metadata service; a name is not.

    IPv4 within IPv6 (mapped, 6to4, NAT64) is judged by the address inside.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = _inner_address(parsed)
    return any(inner in network for network in _FORBIDDEN)


def _inner_address(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address
