// The compiled equivalent of `ane_bench.py --verify 0`, to measure by: the same weights, texts, files and calls for the same
// five configurations, in one process, without a single check or report. Linked against the stand-in.
//
//   baseline            runs all and prints ms per evaluate of each variant
//   baseline --hash     also prints a hash of each program, which tests/bench_overhead.py compares with the module's own
//   baseline --evaluate N   prints the seconds that N evaluates of a small program take, one call after the other

#import <Foundation/Foundation.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct __IOSurface *IOSurfaceRef;
typedef struct { uint32_t numer, denom; } Timebase;
extern IOSurfaceRef IOSurfaceCreate(const void *properties);
extern int IOSurfaceLock(IOSurfaceRef surface, uint32_t options, uint32_t *seed);
extern int IOSurfaceUnlock(IOSurfaceRef surface, uint32_t options, uint32_t *seed);
extern void *IOSurfaceGetBaseAddress(IOSurfaceRef surface);
extern void CFRelease(const void *object);
extern uint64_t mach_absolute_time(void);
extern int mach_timebase_info(Timebase *info);
extern const void *kIOSurfaceWidth, *kIOSurfaceHeight, *kIOSurfaceBytesPerElement, *kIOSurfaceBytesPerRow, *kIOSurfaceAllocSize,
    *kIOSurfacePixelFormat;

@interface NSObject (Private)
+ (id)modelWithMILText:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)options;
+ (id)inMemoryModelWithDescriptor:(id)descriptor;
+ (id)objectWithIOSurface:(IOSurfaceRef)surface;
+ (id)requestWithInputs:(NSArray *)inputs inputIndices:(NSArray *)inputIndices outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices weightsBuffer:(id)weights perfStats:(id)statistics procedureIndex:(NSNumber *)index;
- (NSString *)hexStringIdentifier;
- (BOOL)compileWithQoS:(unsigned)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)loadWithQoS:(unsigned)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)evaluateWithQoS:(unsigned)qos options:(NSDictionary *)options request:(id)request error:(NSError **)error;
- (BOOL)unloadWithQoS:(unsigned)qos error:(NSError **)error;
@end

enum { QoS = 21, Warmup = 10, Rounds = 10, PerRound = 5, Period = 8191 };
typedef struct { int channels, spatial, depth; } Config;

// The Mersenne Twister as Python seeds and reads it: Random(0).random().
static uint32_t state[624];
static int place;

static void seedFrom(uint32_t key) {
    state[0] = 19650218;
    for (int i = 1; i < 624; i++) state[i] = 1812433253u * (state[i - 1] ^ state[i - 1] >> 30) + (uint32_t)i;
    int i = 1;
    for (int k = 0; k < 624; k++) {
        state[i] = (state[i] ^ (state[i - 1] ^ state[i - 1] >> 30) * 1664525u) + key;
        if (++i == 624) { state[0] = state[623]; i = 1; }
    }
    for (int k = 0; k < 623; k++) {
        state[i] = (state[i] ^ (state[i - 1] ^ state[i - 1] >> 30) * 1566083941u) - (uint32_t)i;
        if (++i == 624) { state[0] = state[623]; i = 1; }
    }
    state[0] = 0x80000000u;
    place = 624;
}

static uint32_t word(void) {
    if (place == 624) {
        for (int i = 0; i < 624; i++) {
            uint32_t y = (state[i] & 0x80000000u) | (state[(i + 1) % 624] & 0x7fffffffu);
            state[i] = state[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        place = 0;
    }
    uint32_t y = state[place++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

static double draw(void) {
    uint32_t high = word() >> 5, low = word() >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
}

// The row of a flat spectrum, by the transform's definition.
static int integersOfRow(int n, int *integers) {
    double *real = calloc(n, sizeof *real), *phases = calloc(n, sizeof *phases), *row = calloc(n, sizeof *row), largest = 0;
    for (int k = 0; k <= n / 2; k++) {
        double turns = draw();
        BOOL alone = k == 0 || 2 * k == n;
        real[k] = alone ? 1 - 2 * rint(turns) : 0;
        phases[k] = alone ? 0 : 2 * M_PI * turns;
    }
    double *cosines = malloc(n * sizeof *cosines), *sines = malloc(n * sizeof *sines);
    for (int i = 0; i < n; i++) { cosines[i] = cos(2 * M_PI * i / n); sines[i] = sin(2 * M_PI * i / n); }
    for (int j = 0; j < n; j++) {
        double sum = real[0] + (n % 2 ? 0 : real[n / 2] * (j % 2 ? -1 : 1));
        for (int k = 1; 2 * k < n; k++) {
            int angle = (int)((long)j * k % n);
            sum += 2 * (cos(phases[k]) * cosines[angle] - sin(phases[k]) * sines[angle]);
        }
        row[j] = sum / n;
        largest = fmax(largest, fabs(row[j]));
    }
    int exponent = 0;
    while (ldexp(largest, exponent + 1) <= 127) exponent++;
    for (int j = 0; j < n; j++) integers[j] = (int)rint(ldexp(row[j], exponent));
    free(real), free(phases), free(row), free(cosines), free(sines);
    return exponent;
}

typedef struct { double key; int rotation; } Draw;

static int byKey(const void *a, const void *b) {
    double x = ((const Draw *)a)->key, y = ((const Draw *)b)->key;
    return (x > y) - (x < y);
}

static void put32(uint8_t *to, uint32_t value) { memcpy(to, &value, 4); }
static void put64(uint8_t *to, uint64_t value) { memcpy(to, &value, 8); }

// The whole weight file, malloced.
static uint8_t *weightFile(Config config, int bytes, size_t *length, int *exponent) {
    int n = config.channels;
    seedFrom(0);
    int *integers = malloc(n * sizeof *integers);
    *exponent = integersOfRow(n, integers);
    uint8_t *pool = malloc((size_t)4 * n * bytes);
    for (int i = 0; i < 4 * n; i++) {
        int value = integers[i % n] * (i < 2 * n ? 1 : -1);
        _Float16 half = (_Float16)ldexp(value, -*exponent);
        if (bytes == 2) memcpy(pool + 2 * i, &half, 2); else pool[i] = (uint8_t)value;
    }
    size_t size = (size_t)n * n * bytes, stride = 64 + (size + 63) / 64 * 64;
    *length = 64 + stride * (config.depth - 1) + 64 + size;
    uint8_t *file = calloc(*length, 1);
    put32(file, (uint32_t)config.depth), put32(file + 4, 2);
    Draw *draws = malloc(n * sizeof *draws);
    for (int layer = 0; layer < config.depth; layer++) {
        uint8_t *record = file + 64 + layer * stride, *row = record + 64;
        put32(record, 0xDEADBEEF), put32(record + 4, bytes == 2 ? 1 : 4), put64(record + 8, size), put64(record + 16, row - file);
        for (int i = 0; i < n; i++) draws[i] = (Draw){draw(), i};
        qsort(draws, n, sizeof *draws, byKey);
        for (int i = 0; i < n; i++, row += n * bytes) {
            int start = draws[i].rotation + (draw() < 0.5 ? 0 : 2 * n);
            memcpy(row, pool + (size_t)start * bytes, (size_t)n * bytes);
        }
    }
    free(integers), free(pool), free(draws);
    return file;
}

static NSString *text(Config config, BOOL int8, int exponent) {
    NSMutableString *m = [NSMutableString string];
    int n = config.channels, s = config.spatial;
    NSString *activation = [NSString stringWithFormat:@"[1, %d, %d, %d]", n, s, s];
    [m appendString:@"program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-component-MIL\", \"3510.2.1\"}, {\"coremlc-version\", "
                    @"\"3505.4.1\"}, {\"coremltools-component-milinternal\", \"\"}, {\"coremltools-version\", \"9.0\"}})]\n{\n"];
    [m appendFormat:@"    func main<ios18>(tensor<fp16, %@> x) {\n", activation];
    [m appendString:@"        string c_pad_type = const()[name = string(\"c_pad_type\"), val = string(\"valid\")];\n"
                    @"        tensor<int32, [2]> c_strides = const()[name = string(\"c_strides\"), val = tensor<int32, [2]>([1, 1])];\n"
                    @"        tensor<int32, [4]> c_pad = const()[name = string(\"c_pad\"), val = tensor<int32, [4]>([0, 0, 0, 0])];\n"
                    @"        tensor<int32, [2]> c_dilations = const()[name = string(\"c_dilations\"), val = tensor<int32, [2]>([1, 1])];\n"
                    @"        int32 c_groups = const()[name = string(\"c_groups\"), val = int32(1)];\n"];
    if (int8)
        [m appendString:@"        fp16 q_scale = const()[name = string(\"q_scale\"), val = fp16(0x1p-5)];\n"
                        @"        string q_dtype = const()[name = string(\"q_dtype\"), val = string(\"int8\")];\n"
                        @"        fp16 dq_scale = const()[name = string(\"dq_scale\"), val = fp16(0x1p-5)];\n"];
    size_t stride = 64 + ((size_t)n * n * (int8 ? 1 : 2) + 63) / 64 * 64;
    NSString *previous = @"x";
    for (int i = 0; i < config.depth; i++) {
        NSString *file = [NSString stringWithFormat:@"BLOBFILE(path = string(\"@model_path/weights/weight.bin\"), offset = uint64(%lu))",
                                                    (unsigned long)(64 + i * stride)];
        if (int8)
            [m appendFormat:@"        tensor<fp16, [%d, %d, 1, 1]> W%d = constexpr_affine_dequantize()[axis = int32(0), name = string(\"W%d\"), "
                            @"quantized_data = tensor<int8, [%d, %d, 1, 1]>(%@), scale = fp16(0x1p-%d), zero_point = int8(0)];\n",
                            n, n, i, i, n, n, file, exponent];
        else
            [m appendFormat:@"        tensor<fp16, [%d, %d, 1, 1]> W%d = const()[name = string(\"W%d\"), val = tensor<fp16, [%d, %d, 1, 1]>(%@)];\n",
                            n, n, i, i, n, n, file];
        [m appendFormat:@"        tensor<fp16, %@> c%d = conv(dilations = c_dilations, groups = c_groups, pad = c_pad, pad_type = c_pad_type, "
                        @"strides = c_strides, weight = W%d, x = %@)[name = string(\"c%d\")];\n", activation, i, i, previous, i];
        previous = [NSString stringWithFormat:@"c%d", i];
        if (int8 && i < config.depth - 1) {
            [m appendFormat:@"        tensor<int8, %@> q%d = quantize(input = c%d, output_dtype = q_dtype, scale = q_scale)[name = string(\"q%d\")];\n"
                            @"        tensor<fp16, %@> dq%d = dequantize(input = q%d, scale = dq_scale)[name = string(\"dq%d\")];\n",
                            activation, i, i, i, activation, i, i, i];
            previous = [NSString stringWithFormat:@"dq%d", i];
        }
    }
    [m appendFormat:@"    } -> (%@);\n}\n", previous];
    return m;
}

static void writeInput(Config config, uint8_t *to) {
    seedFrom(0);
    size_t pixels = (size_t)config.spatial * config.spatial, repeated = 2 + pixels / Period;
    _Float16 *pool = malloc(repeated * Period * sizeof *pool);
    for (int i = 0; i < Period; i++) {
        long sum = 0;
        for (int k = 0; k < 12; k++) sum += (long)(draw() * 65536);
        pool[i] = (_Float16)fmax(-3.9, fmin(3.9, sum / 65536.0 - 6));
    }
    for (size_t i = 1; i < repeated; i++) memcpy(pool + i * Period, pool, Period * sizeof *pool);
    for (int channel = 0; channel < config.channels; channel++)
        memcpy(to + channel * pixels * 2, pool + (int)(draw() * Period), pixels * 2);
    free(pool);
}

typedef struct { id model, request; IOSurfaceRef input, output; NSString *directory; uint64_t samples[Rounds * PerRound]; int count; } Loaded;

static IOSurfaceRef surface(size_t bytes) {
    NSNumber *size = [NSNumber numberWithUnsignedLongLong:(bytes + 65535) / 65536 * 65536];
    NSNumber *one = [NSNumber numberWithUnsignedLongLong:1], *zero = [NSNumber numberWithUnsignedLongLong:0];
    return IOSurfaceCreate([NSDictionary dictionaryWithObjectsAndKeys:
        size, (id)kIOSurfaceWidth, one, (id)kIOSurfaceHeight, one, (id)kIOSurfaceBytesPerElement, size, (id)kIOSurfaceBytesPerRow,
        size, (id)kIOSurfaceAllocSize, zero, (id)kIOSurfacePixelFormat, nil]);
}

static void need(BOOL ok, const char *what) {
    if (!ok) { fprintf(stderr, "baseline: %s failed\n", what); exit(1); }
}

static void printHash(NSData *data) {
    uint64_t hash = 0xcbf29ce484222325u;
    const uint8_t *bytes = [data bytes];
    for (NSUInteger i = 0; i < [data length]; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    printf("%016llx\n", (unsigned long long)hash);
}

static Loaded load(Config config, BOOL int8, BOOL hash) {
    Loaded loaded = {0};
    size_t length, bytes = (size_t)config.channels * config.spatial * config.spatial * 2;
    int exponent;
    uint8_t *file = weightFile(config, int8 ? 1 : 2, &length, &exponent);
    NSData *weights = [NSData dataWithBytesNoCopy:file length:length freeWhenDone:YES];
    NSData *mil = [text(config, int8, exponent) dataUsingEncoding:NSUTF8StringEncoding];
    if (hash) { printHash(mil); printHash(weights); }
    NSDictionary *entry = [NSDictionary dictionaryWithObject:weights forKey:@"data"];
    NSDictionary *all = [NSDictionary dictionaryWithObject:entry forKey:@"@model_path/weights/weight.bin"], *none = [NSDictionary dictionary];
    id descriptor = [NSClassFromString(@"_ANEInMemoryModelDescriptor") modelWithMILText:mil weights:all optionsPlist:nil];
    loaded.model = [[NSClassFromString(@"_ANEInMemoryModel") inMemoryModelWithDescriptor:descriptor] retain];
    loaded.directory = [[NSTemporaryDirectory() stringByAppendingPathComponent:[loaded.model hexStringIdentifier]] retain];
    mkdir([loaded.directory fileSystemRepresentation], 0700);
    mkdir([[loaded.directory stringByAppendingPathComponent:@"weights"] fileSystemRepresentation], 0700);
    need([mil writeToFile:[loaded.directory stringByAppendingPathComponent:@"model.mil"] atomically:NO], "model.mil");
    need([weights writeToFile:[loaded.directory stringByAppendingPathComponent:@"weights/weight.bin"] atomically:NO], "weight.bin");
    NSError *error = nil;
    need([loaded.model compileWithQoS:QoS options:none error:&error], "compile");
    need([loaded.model loadWithQoS:QoS options:none error:&error], "load");
    loaded.input = surface(bytes), loaded.output = surface(bytes);
    NSArray *zero = [NSArray arrayWithObject:[NSNumber numberWithUnsignedLongLong:0]];
    Class wrap = NSClassFromString(@"_ANEIOSurfaceObject");
    loaded.request = [[NSClassFromString(@"_ANERequest")
        requestWithInputs:[NSArray arrayWithObject:[wrap objectWithIOSurface:loaded.input]] inputIndices:zero
                  outputs:[NSArray arrayWithObject:[wrap objectWithIOSurface:loaded.output]] outputIndices:zero
            weightsBuffer:nil perfStats:nil procedureIndex:[zero objectAtIndex:0]] retain];
    IOSurfaceLock(loaded.input, 0, NULL);
    writeInput(config, IOSurfaceGetBaseAddress(loaded.input));
    IOSurfaceUnlock(loaded.input, 0, NULL);
    return loaded;
}

static void evaluate(Loaded *loaded, int uncounted, int count, NSDictionary *options) {
    NSError *error = nil;
    for (int i = 0; i < uncounted; i++)
        need([loaded->model evaluateWithQoS:QoS options:options request:loaded->request error:&error], "evaluate");
    uint64_t before = mach_absolute_time();
    for (int i = 0; i < count; i++) {
        need([loaded->model evaluateWithQoS:QoS options:options request:loaded->request error:&error], "evaluate");
        uint64_t now = mach_absolute_time();
        loaded->samples[loaded->count++] = now - before;
        before = now;
    }
}

static void unload(Loaded *loaded) {
    NSError *error = nil;
    need([loaded->model unloadWithQoS:QoS error:&error], "unload");
    [loaded->request release], [loaded->model release];
    CFRelease(loaded->input), CFRelease(loaded->output);
    [[NSFileManager defaultManager] removeItemAtPath:loaded->directory error:NULL];
    [loaded->directory release];
}

static void run(Config config, BOOL hash) {
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    NSDictionary *options = [NSDictionary dictionary];
    Loaded loaded[2];
    for (int i = 0; i < 2; i++) loaded[i] = load(config, i == 1, hash);
    for (int i = 0; i < 2; i++) evaluate(&loaded[i], Warmup, 0, options);
    for (int round = 0; round < Rounds; round++)
        for (int i = 0; i < 2; i++) {
            NSAutoreleasePool *inner = [NSAutoreleasePool new];
            evaluate(&loaded[(i + round) % 2], 1, PerRound, options);
            [inner release];
        }
    Timebase base;
    mach_timebase_info(&base);
    for (int i = 0; i < 2; i++) {
        uint64_t sum = 0;
        for (int k = 0; k < loaded[i].count; k++) sum += loaded[i].samples[k];
        if (!hash) printf("%.6f ms\n", (double)sum * base.numer / base.denom / 1e6 / loaded[i].count);
        unload(&loaded[i]);
    }
    [pool release];
}

static void timeEvaluates(int count) {
    Loaded loaded = load((Config){64, 64, 2}, NO, NO);
    NSDictionary *options = [NSDictionary dictionary];
    NSError *error = nil;
    Timebase base;
    mach_timebase_info(&base);
    volatile uint64_t now = 0;
    uint64_t before = mach_absolute_time();
    for (int i = 0; i < count; i++) {
        need([loaded.model evaluateWithQoS:QoS options:options request:loaded.request error:&error], "evaluate");
        now = mach_absolute_time();
    }
    printf("%.9f\n", (double)(now - before) * base.numer / base.denom / 1e9);
    unload(&loaded);
}

int main(int count, char **words) {
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    static const Config configs[] = {{512, 64, 128}, {512, 64, 64}, {256, 64, 256}, {256, 64, 128}, {384, 64, 128}};
    if (count == 3 && !strcmp(words[1], "--evaluate"))
        timeEvaluates(atoi(words[2]));
    else
        for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) run(configs[i], count == 2 && !strcmp(words[1], "--hash"));
    [pool release];
    return 0;
}
