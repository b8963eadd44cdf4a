"""What Cloud Hypervisor and Firecracker answer, by path."""

from __future__ import annotations

MIB = 1 << 20
CLOUD_HYPERVISOR = {
    "/api/v1/vm.info": (
        200,
        {
            "config": {
                "payload": {"kernel": "/vmlinux"},
                "memory": {"size": 96 * MIB, "shared": False, "hugepages": False},
                "balloon": {"size": 0, "free_page_reporting": True, "deflate_on_oom": True},
                "vsock": {"cid": 3, "socket": "/tmp/vsock"},
            },
            "state": "Running",
            "memory_actual_size": 80 * MIB,
        },
    ),
    "/api/v1/vm.balloon-stats": (
        200,
        {
            "balloon_actual": 16 * MIB,
            "last_update": 1_700_000_000_500,
            "stats": {"free_memory": 20 * MIB, "total_memory": 70 * MIB, "disk_caches": 5 * MIB},
        },
    ),
}
FIRECRACKER = {
    "/": (200, {"app_name": "Firecracker", "id": "vm1", "state": "Running", "vmm_version": "1.17"}),
    "/vm/config": (
        200,
        {
            "machine-config": {"mem_size_mib": 96, "vcpu_count": 1, "huge_pages": "None"},
            "balloon": {
                "amount_mib": 0,
                "deflate_on_oom": False,
                "stats_polling_interval_s": 1,
                "free_page_reporting": True,
            },
            "memory-hotplug": {"total_size_mib": 256},
            "vsock": {"guest_cid": 3, "uds_path": "v.sock"},
        },
    ),
    "/hotplug/memory": (200, {"total_size_mib": 256, "plugged_size_mib": 64}),
    "/balloon/statistics": (
        200,
        {
            "target_pages": 0,
            "actual_pages": 4096,
            "target_mib": 0,
            "actual_mib": 16,
            "free_memory": 20 * MIB,
            "total_memory": 70 * MIB,
        },
    ),
}
