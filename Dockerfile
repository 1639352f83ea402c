# The trainer with its environment, for docker, Apptainer and SLURM.
#
#   docker build -t regnet .
#
# The program is in /opt/regnet and the environment in /opt/venv; both belong to root and nothing writes there.
# What a run writes goes to the working directory, whoever the user and wherever that is. There is no entry point:
# Apptainer's exec and SLURM's containers would pass it by.
#
# The base may be any image of Debian 12. CUDA comes with torch, from PyPI; the driver comes from the machine.
ARG BASE_IMAGE=debian:12-slim

FROM ${BASE_IMAGE} AS base
# Not pinned: Debian keeps one version of a package in a release, and drops it for a security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libturbojpeg0 make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*


# torch and what it shares with others, by themselves: another pin in requirements.txt fetches no gigabytes again.
FROM base AS pins
WORKDIR /pins
COPY requirements.txt .
RUN grep -E '^(torch|torchvision|numpy|pillow|setuptools)==' requirements.txt > torch.txt


FROM base AS environment
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/regnet
COPY --from=pins /pins/torch.txt /tmp/
RUN pip install --no-cache-dir --disable-pip-version-check -r /tmp/torch.txt
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt


# The compiler and the headers stay in this stage.
FROM environment AS ffcv
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libturbojpeg0-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-ffcv.txt .
COPY tools tools
RUN ln -s /opt/venv .venv \
    && tools/install.sh \
    && mkdir /built \
    && cp -r --parents /opt/venv/lib/python3*/site-packages/*ffcv* /built


FROM environment
COPY --from=ffcv /built /
COPY . .
# Readable by anyone, also if the checkout is not; found from any working directory; here, in /opt/regnet, results
# have a place too. The home is for users whom the image does not know (docker run --user).
RUN chmod -R a+rX . \
    && python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'regnet.pth').write_text('/opt/regnet\n')" \
    && useradd --uid 1000 --create-home regnet \
    && mkdir downloads runs shards \
    && chmod 1777 /home/regnet downloads runs shards
ENV HOME=/home/regnet \
    REGNET_VENV=/opt/venv \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="regnet-ddp" \
      org.opencontainers.image.description="Distributed training of RegNetX image classifiers over FFCV shards" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 1000:1000
CMD ["make", "demo"]
