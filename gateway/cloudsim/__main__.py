"""`python -m gateway.cloudsim`."""

from gateway.cloudsim.command import cloud_sim

if __name__ == "__main__":
    cloud_sim()
