# JupyterLab with the notebooks, on a server without a GPU. We did not try it: we had no Docker.
#
#   docker build --tag fedrevive .
#   docker run --rm --publish 127.0.0.1:8888:8888 --volume "$PWD/lab:/home/student/lab" fedrevive
#
# The address, with its token, is in what the second command prints. 03_synthesis took 1.3 GB of memory.
FROM python:3.12-slim

WORKDIR /opt/fedrevive
COPY . .
# PyTorch for the CPU first, from its own index; pip then keeps it.
RUN pip install --no-cache-dir --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu \
        torch torchvision \
    && pip install --no-cache-dir --constraint constraints.txt ".[notebooks]"

RUN useradd --create-home student && mkdir /home/student/lab && chown student /home/student/lab
USER student
WORKDIR /home/student
EXPOSE 8888
CMD ["fedrevive", "lab", "lab", "--", "--no-browser", "--ip=0.0.0.0", "--port=8888"]
