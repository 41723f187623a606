"""Times the parts of a CosFace step over 100,000 classes on TensorFlow, each as a graph alone."""

import time

import numpy as np
import tensorflow as tf

BATCH, DIMS, CLASSES, PARTS = 128, 512, 100_000, 8

rng = np.random.default_rng(0)
features = tf.constant(rng.normal(size=(BATCH, DIMS)).astype("float32"))
kernel = tf.Variable(rng.normal(size=(DIMS, CLASSES)).astype("float32"))
momentum = tf.Variable(tf.zeros((DIMS, CLASSES)))
gradient = tf.constant(rng.normal(size=(DIMS, CLASSES)).astype("float32"))
logits = tf.constant(rng.normal(size=(BATCH, CLASSES)).astype("float32"))
labels = tf.constant(rng.integers(CLASSES, size=BATCH), tf.int32)
shares = tf.constant(rng.normal(size=CLASSES).astype("float32"))
step = DIMS // PARTS


def update():
    momentum.assign(0.9 * momentum - 0.01 * gradient)
    kernel.assign_add(momentum)
    return tf.constant(0.0)


def along_kernel_in_parts():
    rows = [slice(start, start + step) for start in range(0, DIMS, step)]
    return tf.concat(
        [
            tf.matmul(features[:, each], logits, transpose_a=True)
            - tf.convert_to_tensor(kernel)[each] * shares
            for each in rows
        ],
        0,
    )


def of_normalized(products):
    # What autodiff goes through: a normalized copy of the class vectors, and its gradient.
    with tf.GradientTape() as tape:
        unit = tf.math.l2_normalize(tf.convert_to_tensor(kernel), 0)
        value = tf.reduce_sum(tf.matmul(features, unit) * logits) if products else unit
    return tape.gradient(value, kernel, None if products else gradient)


def losses():
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tape.gradient(loss, logits)


PIECES = {
    "products of features with class vectors": lambda: tf.matmul(features, kernel),
    "products back along the features": lambda: tf.matmul(kernel, logits, transpose_b=True),
    "products back along the class vectors": lambda: tf.matmul(features, logits, transpose_a=True),
    "softmax cross-entropy and its gradient": losses,
    "SGD with momentum": update,
    "lengths of the class vectors": lambda: tf.reduce_sum(tf.square(kernel), 0),
    "normalized class vectors and their gradient, by autodiff": lambda: of_normalized(False),
    "gradient of normalized vectors by hand, in one piece": lambda: tf.matmul(
        features, logits, transpose_a=True
    )
    - kernel * shares,
    "the same in eight parts": along_kernel_in_parts,
}

compiled = {name: tf.function(piece) for name, piece in PIECES.items()}
times = {name: [] for name in PIECES}
for turn in range(8):
    for name, piece in compiled.items():
        began = time.perf_counter()
        np.asarray(piece()).ravel()[:1].sum()
        if turn:
            times[name].append(time.perf_counter() - began)
for name, each in times.items():
    print(f"{1000 * np.median(each):6.0f} ms  {name}")
