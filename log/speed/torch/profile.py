import os

os.environ['KERAS_BACKEND']='torch'
import numpy as np, torch, mhe
from torch.profiler import profile, ProfilerActivity
for shape in ((576,64),(512,4096)):
    w=torch.tensor(np.random.default_rng(0).normal(size=shape).astype('float32'),requires_grad=True)
    def call():
        torch.autograd.grad(mhe.hyperspherical_energy(w, s=0), w)
    for _ in range(5): call()
    n = 200 if shape[1]==64 else 5
    with profile(activities=[ProfilerActivity.CPU]) as p:
        for _ in range(n): call()
    events=p.key_averages()
    total=sum(e.self_cpu_time_total for e in events); count=sum(e.count for e in events)
    import time; t=time.perf_counter()
    for _ in range(n): call()
    wall=(time.perf_counter()-t)/n*1e3
    print(f"{shape[0]}x{shape[1]}, full space, s = 0: {wall:.2f} ms a call without the profiler, {total/n/1e3:.2f} ms in {count/n:.0f} operations under it")
    for e in sorted(events,key=lambda e:-e.self_cpu_time_total)[:12]:
        print(f"  {e.key:32s} {e.self_cpu_time_total/n/1e3:9.4f} ms {e.count/n:6.0f} calls {100*e.self_cpu_time_total/total:5.1f} %")
